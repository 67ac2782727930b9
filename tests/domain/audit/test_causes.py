"""Every event has its audit record, or a reason to have none; no record holds content."""

from pathlib import Path
from typing import Any

import pytest

from agentos.domain.audit.canonical import canonical
from agentos.domain.audit.causes import AUDITED, NOT_AUDITED, TAKES_RUN, RunSeen, entry_of
from agentos.domain.audit.chain import AuditChain, chain_ref
from agentos.domain.auth import Principal
from agentos.domain.envelope import read_line
from agentos.domain.log import Recorded
from agentos.domain.subjects import StreamRef
from tests.domain.given import moment
from tests.domain.test_event_names import all_payloads

GOLDEN = Path(__file__).parent.parent / "golden" / "v1"
FILES = [p for p in sorted(GOLDEN.glob("*.json")) if p.stem.partition("~")[0] in AUDITED]
RUN = RunSeen(Principal(principal_id="usr_anna"), "cor_1", "agt_a", {"region": "local"}, "d" * 64)


def test_every_event_is_in_one_of_the_two_tables() -> None:
    assert not AUDITED.keys() & NOT_AUDITED.keys()
    assert set(all_payloads()) == AUDITED.keys() | NOT_AUDITED.keys()


def test_what_is_not_audited_says_why() -> None:
    assert all(NOT_AUDITED.values())


def entry(path: Path) -> tuple[Any, dict[str, Any]]:
    inner = read_line(path.read_bytes())
    ref = StreamRef(inner["tenant_id"], "any", "any_1")
    record = Recorded(ref, "cmt_1", 1, (inner["type"],), b"", position=1, by_tenant="tnt_b")
    return entry_of(record, inner, RUN if inner["type"] in TAKES_RUN else None), inner


@pytest.mark.parametrize("path", FILES, ids=[p.stem for p in FILES])
def test_the_record_of_a_golden_event_can_be_written(path: Path) -> None:
    made, inner = entry(path)
    assert made.cause == inner["event_id"]
    assert made.meta["by_tenant"] == "tnt_b"
    assert all(isinstance(v, int | str | bool | None) for v in made.meta.values())
    (event,) = AuditChain(chain_ref("tnt_a")).record([made], moment())
    canonical(event.payload.model_dump())


CONTENT = ("input", "output", "message", "arguments", "instructions", "text", "lines", "secret",
           "hash", "run_request", "document")  # fmt: skip


@pytest.mark.parametrize("path", FILES, ids=[p.stem for p in FILES])
def test_no_content_goes_into_it(path: Path) -> None:
    made, inner = entry(path)
    held = {str(value) for value in made.meta.values()} | {made.resource, made.reason or ""}
    for text in _texts(inner["payload"]):
        assert not any(text in value for value in held), text


def _texts(value: Any, under: str = "") -> list[str]:
    """Return the texts below members that hold content, long enough to be told apart."""
    if isinstance(value, dict):
        return [t for n, v in value.items() for t in _texts(v, n if n in CONTENT else under)]
    if isinstance(value, list | tuple):
        return [t for v in value for t in _texts(v, under)]
    return [value] if under and isinstance(value, str) and len(value) > 4 else []


def test_the_record_of_a_fork_names_the_run_that_it_was_forked_from() -> None:
    made, inner = entry(GOLDEN / "agentos.run.created~fork.json")
    fork = inner["payload"]["fork"]
    assert (made.meta["forked_from"], made.meta["from_step"]) == (fork["run_id"], 3)


def test_a_model_call_names_the_policy_and_the_rules_that_decided() -> None:
    inner = read_line((GOLDEN / "agentos.usage.recorded.json").read_bytes())
    said = {"decision": "blocked", "reasons": ["pol_a@3", "block:cards", "redact:mail"]}
    payload = {**inner["payload"], "status": "blocked", "policy": said}
    ref = StreamRef("tnt_a", "usage", "models")
    record = Recorded(ref, "cmt_1", 1, (inner["type"],), b"", position=1)
    made = entry_of(record, {**inner, "payload": payload})
    assert made.outcome == "denied"
    assert (made.meta["policy"], made.meta["rules"]) == ("pol_a@3", "block:cards,redact:mail")


def test_both_nodes_of_a_forward_name_the_run_the_peer_and_the_trace() -> None:
    accepted, inner = entry(GOLDEN / "agentos.federation.forward.accepted.json")
    assert accepted.action == "federation.runs.forward"
    assert accepted.run_id == inner["payload"]["remote_run_id"]
    assert accepted.meta["trace_id"] == inner["trace"]["traceparent"][3:35]
    created = read_line((GOLDEN / "agentos.run.created.json").read_bytes())
    payload = {**created["payload"], "origin_stack_id": "stk_b"}
    record = Recorded(
        StreamRef("tnt_a", "run", "run_1"), "c", 1, (created["type"],), b"", position=1
    )
    assert entry_of(record, {**created, "payload": payload}, RUN).meta["stack_id"] == "stk_b"


@pytest.mark.parametrize(("code", "outcome"), [("forbidden", "denied"), ("timeout", "error")])
def test_a_forward_that_was_refused_is_told_from_one_that_failed(code: str, outcome: str) -> None:
    inner = read_line((GOLDEN / "agentos.federation.forward.failed.json").read_bytes())
    payload = {**inner["payload"], "error": {**inner["payload"]["error"], "code": code}}
    record = Recorded(
        StreamRef("tnt_a", "federation", "fwd_1"), "c", 1, (inner["type"],), b"", position=1
    )
    made = entry_of(record, {**inner, "payload": payload})
    assert (made.outcome, made.reason) == (outcome, code)
