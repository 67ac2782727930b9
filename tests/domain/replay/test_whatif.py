"""What a policy, prices, routes or quotas would have done to recorded calls."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentos.domain.aggregate import Moment
from agentos.domain.auth import SYSTEM_PRINCIPAL
from agentos.domain.envelope import Origin
from agentos.domain.log import Recorded
from agentos.domain.privacy.bodies import CallBody
from agentos.domain.replay.proposal import ProposalError, read_proposal
from agentos.domain.replay.traffic import Call, Traffic
from agentos.domain.replay.whatif import KEPT, Tally, WhatIf
from agentos.domain.run.events import TokenUsage
from agentos.domain.subjects import StreamRef
from agentos.domain.usage.usage import PolicySaid, Usage, UsageRecorded
from tests.domain.given import T0, TRACE, Ids, written
from tests.domain.replay.recorder import Recorder

MAIL = "anna@example.org"
BLOCK = {
    "name": "no mail",
    "rules": [
        {
            "name": "no_mail",
            "effect": "block",
            "when": {"direction": ["input"], "pii_types": ["email"]},
        }
    ],
}
REDACT: dict[str, Any] = {
    "name": "hide",
    "rules": [
        {
            "name": "hide_mail",
            "effect": "redact",
            "when": {"direction": ["tool_output", "output"], "pii_types": ["email"]},
        }
    ],
}
NO_TOOL: dict[str, Any] = {
    "name": "no tool",
    "rules": [
        {
            "name": "no_echo",
            "effect": "block",
            "when": {"direction": ["tool_input"], "tool": ["tool.echo"]},
        }
    ],
}
PRICES: dict[str, Any] = {
    "models": [
        {
            "model_id": "builtin/echo",
            "price": {"input_per_million": 1_000_000, "output_per_million": 0},
        }
    ]
}


def direct(
    *calls: dict[str, Any], tenant_id: str = "tnt_a", position: int = 900, now: int = T0
) -> Recorded:
    """Return direct calls as the log has them."""
    usage = Usage(StreamRef(tenant_id, "usage", "models"))
    defaults = {
        "operation": "chat",
        "model_ref": "builtin/echo",
        "backend": "builtin",
        "model": "echo",
        "status": "ok",
    }
    origin = Origin(TRACE, SYSTEM_PRINCIPAL)
    recorded = [
        (UsageRecorded.model_validate({**defaults, "request_id": f"req_{n}", **call}), origin)
        for n, call in enumerate(calls)
    ]
    events = usage.record(recorded, Moment(now, Ids(3000), origin))
    return written(usage, events, position)


def judged(raw: Any, *records: Recorded) -> Tally:
    """Return what a proposal would have done."""
    traffic, what_if, tally = Traffic(), WhatIf(read_proposal(raw)), Tally()
    for record in records:
        for call in traffic.feed(record):
            tally.add(what_if.judge(call))
    return tally


def test_the_calls_of_a_run_are_looked_at_again() -> None:
    run = Recorder(f"write to {MAIL}").start().model("", ["tool.echo"]).tools(["sent"]).model("ok")
    tally = judged(BLOCK, *run.records)
    assert (tally.decisions, tally.changed, tally.would_block) == (2, 2, 2)
    assert tally.changes[0]["was"] == "allowed"
    assert tally.changes[0]["would"] == "blocked"
    assert tally.changes[0]["reasons"] == ["pol_proposed@0", "block:no_mail"]
    assert tally.changes[0]["run_id"] == "run_1"
    assert tally.cost_delta_micro == -500_000


def test_what_a_tool_said_is_looked_at_in_the_next_call() -> None:
    run = Recorder("hi").start().model("", ["tool.echo"]).tools([{"to": [MAIL]}]).model("ok")
    tally = judged(REDACT, *run.records)
    assert (tally.decisions, tally.changed, tally.would_redact) == (2, 1, 1)
    assert tally.cost_delta_micro == 0


@pytest.mark.parametrize("said", [{MAIL: 1}, {"rows": [{MAIL: None}]}])
def test_names_in_what_a_tool_said_are_looked_at_too(said: Any) -> None:
    run = Recorder("hi").start().model("", ["tool.echo"]).tools([said]).model("ok")
    assert judged(REDACT, *run.records).would_redact == 1


def test_numbers_are_looked_at_too() -> None:
    card = {"name": "c", "effect": "block", "when": {"pii_types": ["credit_card"]}}
    run = Recorder("hi").start().model("", ["tool.echo"]).tools([4111111111111111]).model("ok")
    assert judged({"name": "no cards", "rules": [card]}, *run.records).would_block == 1


def test_a_tool_that_would_not_be_let_in() -> None:
    run = Recorder("hi").start().model("", ["tool.echo"]).tools(["x"]).model("ok")
    assert judged(NO_TOOL, *run.records).would_block == 1


def test_a_policy_without_rules_changes_nothing() -> None:
    run = Recorder(MAIL).start().model("bye")
    tally = judged({"name": "nothing", "rules": []}, *run.records)
    assert (tally.decisions, tally.changed) == (1, 0)


def test_direct_calls_go_by_what_was_found_in_them() -> None:
    said = PolicySaid(decision="redacted", findings={"input": {"email": 1}}).model_dump()
    none = PolicySaid(decision="allowed").model_dump()
    record = direct({"policy": said}, {"policy": none}, {})
    tally = judged(BLOCK, record)
    assert (tally.decisions, tally.would_block, tally.changed, tally.not_known) == (3, 1, 1, 1)
    (change,) = tally.changes
    assert (change["was"], change["request_id"], change["run_id"]) == ("redacted", "req_0", None)


def test_a_call_of_a_run_counts_once() -> None:
    run = Recorder("hi").start().model("bye")
    record = direct({"run_id": "run_1", "agent_id": "agt_a"})
    assert judged(BLOCK, *run.records, record).decisions == 1


def test_a_refused_call_stays_refused() -> None:
    tally = judged(BLOCK, direct({"status": "refused"}))
    assert (tally.decisions, tally.changed) == (1, 0)


def test_a_price_table_tells_the_difference() -> None:
    run = Recorder("hi").start().model("bye")  # 3 tokens in, 4 out, for 0.25 dollars
    tally = judged(PRICES, *run.records)
    assert (tally.decisions, tally.changed, tally.would_block) == (1, 1, 0)
    assert tally.to_json()["cost_delta_usd"] == 2.75


def test_a_route_leads_elsewhere() -> None:
    raw = PRICES | {
        "routes": [
            {"name": "cheap", "chain": [{"targets": [{"model_id": "builtin/echo"}]}]},
        ]
    }
    usage = TokenUsage(input_tokens=1, output_tokens=1, total_tokens=2).model_dump()
    call = {"model_ref": "cheap", "backend": "big", "model": "one", "usage": usage}
    lost = {"model_ref": "gone/gone"}
    tally = judged(raw, direct(call, lost))
    assert tally.changes[0]["model_would"] == "builtin/echo"
    assert tally.changes[0]["cost_delta_usd"] == 1.0
    assert tally.changes[1]["reasons"] == ["route:invalid_request"]


def test_a_quota_fills_up_window_by_window() -> None:
    usage = TokenUsage(input_tokens=40, output_tokens=0, total_tokens=40).model_dump()
    quotas = {"models": {"token_budget": {"window": "minute", "max_tokens": 100}}}
    minute = [
        direct({"usage": usage}, {"usage": usage}, {"usage": usage}, position=1),
        direct({"usage": usage}, position=2, now=T0 + 60_000),
        direct({"usage": usage}, position=3, tenant_id="tnt_b"),
    ]
    tally = judged(quotas, *minute)
    assert (tally.decisions, tally.would_block) == (5, 1)
    assert tally.changes[0]["reasons"] == ["quota:tokens a minute"]


def test_the_changes_are_kept_up_to_a_thousand() -> None:
    said = PolicySaid(decision="allowed", findings={"input": {"email": 1}}).model_dump()
    tally = judged(BLOCK, direct(*[{"policy": said}] * (KEPT + 5)))
    assert tally.changed == KEPT + 5
    assert len(tally.changes) == KEPT


def test_only_runs_under_way_are_remembered() -> None:
    traffic = Traffic()
    for n in range(5):
        for record in Recorder("hi", run_id=f"run_{n}").start().model("bye").records:
            list(traffic.feed(record))
    assert traffic._talks == {}


def test_several_parts_at_once() -> None:
    raw = {"policy": BLOCK, "catalog": PRICES, "quotas": {"models": {"max_requests_per_minute": 9}}}
    proposal = read_proposal(raw)
    assert proposal.policy is not None
    assert proposal.table is not None
    assert len(proposal.budgets) == 1


@pytest.mark.parametrize(
    "raw",
    [
        1,
        [],
        {},
        {"x": 1},
        {"policy": 1},
        {"name": "p", "rules": [{"name": "r", "effect": "explode"}]},
        {"name": "p", "rules": [{"name": "r", "effect": "block", "when": {"pii_types": ["x"]}}]},
        {"routes": [{"name": "r", "chain": [{"targets": [{"model_id": "no/no"}]}]}]},
        {"quotas": {"runs": {"max_concurrent_runs": 1}}},
        {"models": {"token_budget": {"window": "year", "max_tokens": 1}}},
    ],
)
def test_what_is_no_proposal_is_refused(raw: Any) -> None:
    with pytest.raises(ProposalError):
        read_proposal(raw)


@given(st.lists(st.text(max_size=20), min_size=1, max_size=4))
def test_any_texts_are_judged(texts: list[str]) -> None:
    made = Recorder(texts[0]).start()
    for text in texts:
        made.model(text, ["tool.echo"])
        made.tools([{text: [text]}])
    made.model("bye")
    traffic = Traffic()
    calls: list[Call] = [call for record in made.records for call in traffic.feed(record)]
    assert [len(call.tools) for call in calls] == [1] * len(texts) + [0]
    assert judged(BLOCK, *made.records).decisions == len(calls)


def test_a_direct_call_whose_body_was_kept_is_looked_at_again() -> None:
    (call,) = Traffic().feed(direct({"policy": {"decision": "allowed", "findings": {}}}))
    body = CallBody(input=(f"write to {MAIL}",), output=("ok",), tools=(("tool.echo", ("x",)),))
    what_if, tally = WhatIf(read_proposal(BLOCK)), Tally()
    for known in (call, call.with_body(body)):
        tally.add(what_if.judge(known))
    assert (tally.would_block, tally.decisions) == (1, 2)
    assert tally.sources == {"events": 0, "bodies": 1, "findings": 1, "nothing": 0}
    blocked = WhatIf(read_proposal(NO_TOOL)).judge(call.with_body(body))
    assert blocked.would == "blocked"


def test_what_is_erased_is_not_judged() -> None:
    run = Recorder(f"write to {MAIL}").start().model("ok")
    tally = judged(BLOCK, *(replace(record, readable=False) for record in run.records))
    assert (tally.would_block, tally.not_known, tally.changed) == (0, 1, 0)
    assert tally.sources["nothing"] == 1


SAID = st.sampled_from(["hello", "", MAIL, f"to {MAIL} and bo@example.org", "4111 1111 1111 1111"])


@given(st.lists(SAID, min_size=1, max_size=6), st.sampled_from([BLOCK, REDACT, NO_TOOL]))
def test_what_is_remembered_of_a_run_changes_no_answer(texts: list[str], raw: Any) -> None:
    made = Recorder(texts[0]).start()
    for text in texts:
        made.model(text, ["tool.echo"]).tools([{"said": [text, text]}])
    made.model("bye")
    traffic = Traffic()
    calls: list[Call] = [call for record in made.records for call in traffic.feed(record)]
    remembering = WhatIf(read_proposal(raw))
    for call in (*calls, *reversed(calls), *calls):
        assert remembering.judge(call) == WhatIf(read_proposal(raw)).judge(call)
