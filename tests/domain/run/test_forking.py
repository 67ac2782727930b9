"""A fork takes over whole steps, under ids of its own, and has not paid for them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentos.domain.aggregate import read_events
from agentos.domain.envelope import Event
from agentos.domain.errors import InvalidStateTransitionError
from agentos.domain.run.events import ForkedFrom, ModelCompleted, StepStarted, ToolCallCompleted
from agentos.domain.run.forking import past_before, renewed
from agentos.domain.run.run import Run
from tests.domain.given import Ids, created, moment, types
from tests.domain.replay.given import assert_replays
from tests.domain.replay.recorder import Recorder, kinds_of_runs

FORK = ForkedFrom(run_id="run_0", from_step=2)
KINDS = kinds_of_runs()


def events_of(made: Recorder) -> list[Event]:
    return [e for record in made.records for e in read_events(record, Run.PAYLOADS)]


def steps_of(made: Recorder) -> int:
    return made.run.steps_total


def fork_of(made: Recorder, step: int) -> Recorder:
    """Fork a recorded run and let it go on."""
    past = renewed(past_before(events_of(made), step), Ids(7000))
    fork = ForkedFrom(run_id="run_1", from_step=step)
    return Recorder(run_id="run_2", fork=fork, past=past).start(ms=9)


def test_the_first_step_takes_over_nothing() -> None:
    assert past_before(events_of(KINDS["with_tools"]), 1) == []


def test_side_by_side_tools_are_taken_over_one_by_one() -> None:
    made = KINDS["tools_in_parallel"]
    past = past_before(events_of(made), 3)
    assert [p.TYPE.removeprefix("agentos.") for _, p in past] == [
        "run.step.started",
        "model.requested",
        "model.completed",
        "run.step.completed",
        "run.step.started",
        "tool.call.requested",
        "tool.call.completed",
        "run.step.completed",
    ]
    fork = fork_of(made, 3)
    assert len(fork.run.results) == 1
    assert [call.name for call in fork.run.open_tools.values()] == ["tool.time", "tool.kv.put"]
    fork.tools(["a", "b"]).model("bye")
    assert fork.run.status == "completed"
    assert_replays(fork.records, fork.definition)


def test_a_call_that_is_made_again_has_another_idempotency_key() -> None:
    made = KINDS["with_tools"]
    fork = fork_of(made, 2)
    assert fork.run.open_tools.keys().isdisjoint(made.run.results)


def test_the_past_is_not_paid_again() -> None:
    fork = fork_of(KINDS["with_tools"], 3)
    assert fork.run.cost_usd == 0
    assert fork.run.tokens_total == 0
    assert (fork.run.steps_total, fork.run.model_calls_total) == (3, 2)
    assert fork.run.answers[0].tool_calls[0].tool_call_id in fork.run.results


@pytest.mark.parametrize("step", [0, -1, 4, 10**6])
def test_a_step_that_never_was_is_refused(step: int) -> None:
    with pytest.raises(InvalidStateTransitionError, match="no such step"):
        past_before(events_of(KINDS["with_tools"]), step)


def test_a_past_without_its_end_is_refused() -> None:
    made = Recorder().start().model("", ["tool.echo", "tool.time"])
    assert len(past_before(events_of(made), 2)) == 4
    with pytest.raises(InvalidStateTransitionError, match="no result"):
        past_before(events_of(made), 3)


def test_only_a_fork_begins_with_a_past() -> None:
    run = Run(KINDS["queued"].run.ref)
    run.create("agt_a", created(), moment())
    with pytest.raises(InvalidStateTransitionError, match="only a fork"):
        run.adopt([("stp_1", StepStarted(step_kind="model", name="m"))], moment())


def test_a_past_holds_facts_of_steps_only() -> None:
    run = Run(KINDS["queued"].run.ref)
    run.create("agt_a", created().model_copy(update={"fork": FORK}), moment())
    with pytest.raises(InvalidStateTransitionError, match="no fact"):
        run.adopt([("stp_1", created())], moment())


def test_what_was_approved_before_is_taken_over_and_what_is_made_again_is_asked_again() -> None:
    made = KINDS["approved"]
    (old,) = made.run.approvals.all.values()
    behind = fork_of(made, 3)
    (taken,) = behind.run.approvals.all.values()
    assert (taken.decision, taken.by) == ("approve", "usr_boss")
    assert (taken.approval_id, taken.tool_call_id) != (old.approval_id, old.tool_call_id)
    again = fork_of(made, 2)
    assert again.run.is_waiting
    assert not again.run.open_tools


@given(st.sampled_from(sorted(KINDS)), st.integers(1, 8), st.booleans())
def test_any_step_of_any_run_forks_and_replays(kind: str, step: int, says: bool) -> None:
    made = KINDS[kind]
    try:
        fork = fork_of(made, step)
    except InvalidStateTransitionError:
        assert step > steps_of(made) or step > 1
        return
    assert step <= steps_of(made)
    while not fork.run.is_final:
        if fork.run.is_waiting:
            fork.decide("approve").start("wrk_2")
        elif fork.run.open_model:
            fork.model("bye")
        else:
            fork.tools(["again"] * len(fork.run.open_tools))
    assert_replays(fork.records, fork.definition)
    past = [e.payload for e in events_of(fork)[1 : len(fork.records[0].types)]]
    for payload in past:
        if isinstance(payload, ModelCompleted):
            assert payload.cost_usd == 0
        if isinstance(payload, ToolCallCompleted):
            assert payload.tool_call_id not in made.run.results
    assert types(events_of(fork))[0] == "run.created"
