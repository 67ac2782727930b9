"""Run: given events, when a command, then events or an error."""

from collections.abc import Callable

import pytest

from agentos.domain.aggregate import FoldError, Moment
from agentos.domain.errors import InvalidStateTransitionError, MaxStepsError
from agentos.domain.log import void_commit
from agentos.domain.run.advance import error_info
from agentos.domain.run.events import Output, ToolCallRequested
from agentos.domain.run.run import Run, run_ref
from tests.domain.given import (
    T0,
    Ids,
    answer,
    created,
    moment,
    queued,
    recorded,
    result,
    running,
    types,
    written,
)

ERROR = error_info(MaxStepsError("enough"))
ENDS: dict[str, Callable[[Run, Moment], None]] = {
    "completed": lambda run, at: run.complete(Output(text="x"), at),
    "failed": lambda run, at: run.fail(ERROR, at),
    "canceled": lambda run, at: run.finish_cancel(at),
}
COMMANDS: dict[str, Callable[[Run, Moment], None]] = ENDS | {
    "create": lambda run, at: run.create("agt_a", created(), at),
    "start": lambda run, at: run.start("wrk_2", at),
    "model": lambda run, at: run.begin_model("builtin/echo", 1, False, at),
    "tool": lambda run, at: run.begin_tool(tool("tcall_1"), at),
    "refuse": lambda run, at: run.refuse_tool(result("tcall_1", error=ERROR), at),
    "cancel": lambda run, at: run.request_cancel("usr_a", None, at),
}


def tool(call_id: str) -> ToolCallRequested:
    return ToolCallRequested(tool_call_id=call_id, tool_id="tool.echo", input={}, timeout_ms=10)


def test_create() -> None:
    run = Run(run_ref("tnt_a", "run_1"))
    run.create("agt_a", created(), moment())
    (event,) = run.collect()
    assert (event.type, event.sequence, event.time) == ("agentos.run.created", 1, T0)
    assert (event.agent_id, event.run_id, event.step_id) == ("agt_a", "run_1", None)
    assert run.status == "queued"
    assert run.collect() == []


@pytest.mark.parametrize("command", sorted(set(COMMANDS) - {"create"}))
def test_nothing_but_its_creation_begins_a_run(command: str) -> None:
    run = Run(run_ref("tnt_a", "run_1"))
    with pytest.raises(InvalidStateTransitionError):
        COMMANDS[command](run, moment())
    assert run.collect() == []


def test_a_run_is_created_once() -> None:
    with pytest.raises(InvalidStateTransitionError):
        COMMANDS["create"](queued(), moment())


@pytest.mark.parametrize("end", sorted(ENDS))
@pytest.mark.parametrize("begin", [queued, running])
@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_nothing_follows_the_final_event(command: str, begin: Callable[[], Run], end: str) -> None:
    run = begin()
    ENDS[end](run, moment())
    assert run.is_final
    assert run.status == end
    assert run.completed_at == T0
    assert len(run.collect()) == 1
    with pytest.raises(InvalidStateTransitionError):
        COMMANDS[command](run, moment())
    assert run.collect() == []


def test_a_model_call_is_two_facts_before_and_two_behind() -> None:
    run, ids = running(), Ids(50)
    run.begin_model("builtin/echo", 2, True, moment(T0 + 10, ids))
    before = run.collect()
    assert types(before) == ["run.step.started", "model.requested"]
    assert run.open_model is not None
    request_id, call = run.open_model
    assert {e.step_id for e in before} == {call.step_id}
    run.end_model(answer(request_id, "hi"), moment(T0 + 25, ids))
    behind = run.collect()
    assert types(behind) == ["model.completed", "run.step.completed"]
    assert {e.step_id for e in behind} == {call.step_id}
    assert behind[1].payload.model_dump()["duration_ms"] == 15
    assert run.open_model is None
    assert [a.content for a in run.answers] == ["hi"]
    assert (run.steps_total, run.model_calls_total, run.tokens_total) == (1, 1, 7)
    assert run.cost_usd == 0.25


def test_only_the_open_model_call_can_end() -> None:
    run = running()
    with pytest.raises(InvalidStateTransitionError):
        run.end_model(answer("req_x"), moment())
    run.begin_model("builtin/echo", 1, False, moment())
    with pytest.raises(InvalidStateTransitionError):
        run.end_model(answer("req_x"), moment())


def test_tool_calls_are_open_side_by_side_and_end_in_any_order() -> None:
    run, ids = running(), Ids(50)
    for call_id in ("tcall_1", "tcall_2"):
        run.begin_tool(tool(call_id), moment(T0, ids))
    steps = {i: c.step_id for i, c in run.open_tools.items()}
    assert len(set(steps.values())) == 2
    run.collect()
    run.end_tool(result("tcall_2"), moment(T0, ids))
    assert {e.step_id for e in run.collect()} == {steps["tcall_2"]}
    assert list(run.open_tools) == ["tcall_1"]
    with pytest.raises(InvalidStateTransitionError):
        run.end_tool(result("tcall_2"), moment(T0, ids))
    assert (run.steps_total, run.tool_calls_total) == (2, 2)


def test_a_refused_call_is_a_step_but_no_call() -> None:
    run = running()
    run.refuse_tool(result("tcall_1", error=ERROR), moment())
    assert types(run.collect()) == [
        "run.step.started",
        "tool.call.completed",
        "run.step.completed",
    ]
    assert (run.steps_total, run.tool_calls_total) == (1, 0)
    assert not run.open_tools


def test_a_cancel_asked_twice_stands_once() -> None:
    run = running()
    run.request_cancel("usr_a", "why", moment())
    run.request_cancel("usr_b", None, moment())
    assert types(run.collect()) == ["run.cancel_requested"]
    run.finish_cancel(moment())
    (canceled,) = run.collect()
    assert canceled.payload.model_dump()["by"] == "usr_a"


def test_each_attempt_counts_and_the_first_start_stays() -> None:
    run = running()
    run.start("wrk_2", moment(T0 + 500))
    assert (run.attempt, run.worker_id) == (2, "wrk_2")
    assert (run.started_at, run.attempt_at) == (T0, T0 + 500)


def test_time_never_runs_backwards() -> None:
    run = running(now_ms=T0)
    run.request_cancel("usr_a", None, moment(T0 - 5000))
    (event,) = run.collect()
    assert event.time == T0


def test_every_event_is_in_the_runs_own_trace() -> None:
    run = queued()
    at = moment()
    other = Moment(
        at.now_ms,
        at.new_id,
        type(at.origin)("00-" + "1" * 32 + "-" + "2" * 16 + "-01", at.origin.principal),
    )
    run.start("wrk_1", other)
    (event,) = run.collect()
    assert event.trace == run.trace


def test_the_view_leaves_out_what_has_not_come_yet() -> None:
    view = queued().view()
    assert view["status"] == "queued"
    assert view["output"] is None
    assert view["error"] is None
    assert view["events_url"] == "/v1/runs/run_1/events"
    assert not {"started_at", "completed_at", "summary", "labels", "correlation_id"} & set(view)


def test_the_view_of_a_finished_run() -> None:
    run = running()
    run.complete(Output(text="x"), moment(T0 + 5))
    view = run.view()
    assert view["output"] == {"type": "text", "text": "x"}
    assert view["summary"] == {
        "steps_total": 0,
        "tool_calls_total": 0,
        "model_calls_total": 0,
        "tokens_total": 0,
        "cost_usd": 0.0,
    }
    assert view["completed_at"] == "2027-01-15T08:00:00.005Z"


def test_the_runs_own_calls_are_made_as_its_principal() -> None:
    auth = queued().auth()
    assert auth.principal.principal_id == "usr_anna"
    assert auth.scopes == {"models:invoke", "tools:invoke"}
    assert auth.tenant_id == "tnt_a"


def test_a_closed_subject_is_no_run() -> None:
    run = Run(run_ref("tnt_a", "run_1")).fold(
        [recorded(void_commit(run_ref("tnt_a", "run_1"), Ids()), 9)]
    )
    assert run.is_void
    assert run.status is None
    assert run.position == 9


def test_folding_passes_over_what_it_has_and_refuses_gaps() -> None:
    live = Run(run_ref("tnt_a", "run_1"))
    live.create("agt_a", created(), moment())
    first = written(live, live.collect(), 5)
    live.start("wrk_1", moment())
    second = written(live, live.collect(), 8)
    run = Run(live.ref).fold([first])
    assert run.fold([first]).position == 5
    assert run.fold([first, second]).position == 8
    assert run.status == "running"
    with pytest.raises(FoldError, match="sequence"):
        Run(live.ref).fold([second])
