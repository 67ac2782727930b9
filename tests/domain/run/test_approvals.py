"""A call that a person must decide on: asked for, decided once, made or not, and waited for."""

from typing import Any

import pytest
from pydantic_core import from_json

from agentos.domain.aggregate import read_events
from agentos.domain.errors import InvalidStateTransitionError, NotFoundError
from agentos.domain.replay.states import run_state
from agentos.domain.run.advance import conversation, run_deadline
from agentos.domain.run.approving import (
    NOT_APPROVED,
    approval_view,
    begin_approved,
    decide_approval,
    record_decision,
)
from agentos.domain.run.events import ToolCallRequested
from agentos.domain.run.run import NEVER_MS
from tests.domain.given import ASKS, BLOCKS, T0, moment, types
from tests.domain.replay.recorder import DEFINITION, Recorder

ECHO = {"tool.echo": ASKS}


def waiting(*more: str, **options: Any) -> Recorder:
    """Return a run that asks for tool.echo."""
    return Recorder(**options).start().model("", ["tool.echo", *more], policies=ECHO)


def approval(made: Recorder) -> str:
    return next(iter(made.run.approvals.all))


def said(made: Recorder) -> list[str]:
    return types([e for r in made.records for e in read_events(r, made.run.PAYLOADS)])


def test_nothing_is_called_before_a_person_says_so() -> None:
    made = waiting()
    run = made.run
    assert said(made)[-2:] == ["run.step.started", "tool.call.approval_required"]
    assert (run.is_waiting, run.status, dict(run.open_tools)) == (True, "running", {})
    (asked,) = run.approvals.asked.values()
    assert asked.approval_id.startswith("apr_")
    assert asked.reason == "approval_required:boss"
    assert asked.expires_ms == run.time + 60_000 == run.waits_until
    assert (run.steps_total, run.tool_calls_total) == (2, 0)


def test_without_a_time_limit_it_waits_for_ever() -> None:
    never = ASKS.model_copy(update={"wait_ms": None})
    made = Recorder().start().model("", ["tool.echo"], policies={"tool.echo": never})
    assert made.run.waits_until == NEVER_MS
    made.expire(10**12)
    assert made.run.is_waiting


def test_what_was_approved_is_called_in_the_step_that_asked() -> None:
    made = waiting().decide("approve", "go on")
    assert not made.run.is_waiting
    assert made.run.waits_until == 0
    made.start("wrk_2")
    (call,) = made.run.open_tools.values()
    (decided,) = made.run.approvals.all.values()
    assert call.step_id == decided.step_id
    assert call.arguments == {"n": decided.tool_call_id}
    assert (decided.status, decided.by, decided.why) == ("approved", "usr_boss", "go on")
    assert (made.run.steps_total, made.run.tool_calls_total) == (2, 1)


def test_what_was_rejected_goes_back_to_the_model_with_the_reason() -> None:
    made = waiting().decide("reject", "not today").start("wrk_2")
    assert made.run.open_model is not None
    told = from_json(conversation(made.run, DEFINITION)[-1].content)["error"]
    assert (told["code"], told["message"]) == ("approval_rejected", NOT_APPROVED)
    assert told["details"]["reason"] == "not today"
    assert made.run.tool_calls_total == 0


def test_the_time_of_the_run_stands_still_while_it_waits() -> None:
    made = waiting(timeout_ms=1_000)
    before = run_deadline(made.run, made.plan)
    made.decide("approve", ms=50_000).start("wrk_2")
    assert not made.run.is_final
    assert run_deadline(made.run, made.plan) == before + 50_000
    made.tools(["late"], ms=2_000)
    assert made.run.error is not None
    assert made.run.error.code == "timeout"


def test_beside_a_call_in_flight_the_time_goes_on() -> None:
    made = waiting("tool.time", timeout_ms=1_000)
    assert not made.run.is_waiting
    made.tools(["x"], ms=2_000)
    assert made.run.error is not None
    assert made.run.error.code == "timeout"


def test_after_its_last_call_it_waits() -> None:
    made = waiting("tool.time").tools(["x"])
    assert made.run.is_waiting
    made.decide("approve").start("wrk_2").tools(["y"]).model("bye")
    assert made.run.status == "completed"


def test_one_of_two_is_called_while_the_other_waits() -> None:
    both = {"tool.echo": ASKS, "tool.time": ASKS}
    made = Recorder().start().model("", ["tool.echo", "tool.time"], policies=both)
    made.decide("reject")
    assert made.run.is_waiting
    made.decide("approve").start("wrk_2")
    assert [call.name for call in made.run.open_tools.values()] == ["tool.time"]


def test_the_same_decision_again_changes_nothing_and_no_other_does() -> None:
    made = waiting().decide("approve", "yes")
    before = made.run.sequence
    for decision in ("approve", "reject"):
        decide_approval(made.run, approval(made), decision, "usr_x", "no", made.at(9))
    assert made.run.sequence == before
    assert made.run.approvals.all[approval(made)].by == "usr_boss"


def test_nobody_decides_twice_whatever_is_written() -> None:
    made = waiting().decide("approve")
    with pytest.raises(InvalidStateTransitionError):
        record_decision(made.run, approval(made), "reject", "usr_x", None, made.at())


def test_who_comes_too_late_finds_it_expired() -> None:
    made = waiting().decide("approve", ms=60_000)
    assert made.run.approvals.all[approval(made)].status == "expired"
    assert said(made)[-3:] == ["tool.call.rejected", "tool.call.completed", "run.step.completed"]


def test_a_person_who_names_the_reason_of_an_expiry_has_rejected() -> None:
    made = waiting().decide("reject", "approval_expired")
    assert made.run.approvals.all[approval(made)].status == "rejected"


def test_an_approval_that_never_was_and_a_run_that_ended() -> None:
    made = waiting()
    with pytest.raises(NotFoundError):
        decide_approval(made.run, "apr_x", "approve", "usr_boss", None, made.at())
    held = waiting().cancel(held=True)
    with pytest.raises(InvalidStateTransitionError, match="canceled"):
        decide_approval(held.run, approval(held), "approve", "usr_boss", None, held.at())
    ended = waiting().cancel()
    with pytest.raises(InvalidStateTransitionError, match="ended"):
        decide_approval(ended.run, approval(ended), "approve", "usr_boss", None, ended.at())


def test_a_call_begins_as_approved_only_if_it_was() -> None:
    made = waiting()
    (asked,) = made.run.approvals.asked.values()
    call = ToolCallRequested(
        tool_call_id=asked.tool_call_id, tool_id="tool.echo", input={}, timeout_ms=1
    )
    with pytest.raises(InvalidStateTransitionError):
        begin_approved(made.run, call, moment(T0))


def test_what_policy_blocks_is_not_called_and_goes_back_to_the_model() -> None:
    made = Recorder().start().model("", ["tool.echo"], policies={"tool.echo": BLOCKS})
    assert made.run.open_model is not None
    told = from_json(conversation(made.run, DEFINITION)[-1].content)["error"]
    assert told["code"] == "policy_blocked"
    assert told["details"]["reasons"] == ["pol_a@1", "block:never"]


def test_a_tool_that_the_run_may_not_use_is_not_asked_for() -> None:
    made = Recorder(tool_denymap=["tool.echo"]).start()
    made.model("", ["tool.echo"], policies=ECHO)
    assert not made.run.approvals.all
    assert made.run.open_model is not None


def test_the_views() -> None:
    made = waiting()
    (asked,) = made.run.approvals.all.values()
    shown = approval_view(made.run, asked)
    assert (shown["status"], shown["input"]) == ("pending", {"n": asked.tool_call_id})
    assert run_state(made.run)["waiting"] is True
    made.cancel()
    assert approval_view(made.run, asked)["status"] == "closed"
    decided = waiting().decide("reject", "no")
    (one,) = decided.run.approvals.all.values()
    shown = approval_view(decided.run, one)
    assert (shown["status"], shown["by"], shown["comment"]) == ("rejected", "usr_boss", "no")
    assert "input" not in shown
