"""The agent loop, without a world: what follows from a run's state and nothing else."""

import json
from typing import Any

import pytest

from agentos.domain.agent.agent import Limits
from agentos.domain.errors import ProviderError
from agentos.domain.run.advance import (
    MODEL_TIMEOUT_MS,
    Plan,
    Work,
    advance,
    conversation,
    error_info,
    run_deadline,
)
from agentos.domain.run.run import Run
from tests.domain.given import T0, Ids, answer, moment, plan_of, result, running, spec, types

IDS = Ids(10_000)


def step(run: Run, plan: Plan, now: int = T0) -> Work:
    return advance(run, plan, moment(now, IDS))


def ask(run: Run, plan: Plan, now: int = T0) -> str:
    """Advance to a model call and return its request id."""
    work = step(run, plan, now)
    assert work.model is not None
    return work.model.request_id


def test_model_then_tools_side_by_side_then_model_then_answer() -> None:
    run = running()
    plan = plan_of(run, spec("tool.echo"), spec("tool.time"), instructions="be brief")
    work = step(run, plan)
    assert work.model is not None
    assert [(m.role, m.content) for m in work.model.messages] == [
        ("system", "be brief"),
        ("user", "hello"),
    ]
    assert [t.tool_id for t in work.model.tools] == ["tool.echo", "tool.time"]
    calls = [("tcall_1", "tool.echo"), ("tcall_2", "tool.time")]
    run.end_model(answer(work.model.request_id, "", calls), moment(T0, IDS))
    work = step(run, plan)
    assert [(c.tool_call_id, c.tool_id, c.run_id) for c in work.tools] == [
        ("tcall_1", "tool.echo", "run_1"),
        ("tcall_2", "tool.time", "run_1"),
    ]
    assert work.tools[0].arguments == {"n": "tcall_1"}
    run.end_tool(result("tcall_2", {"late": True}, "tool.time"), moment(T0, IDS))
    work = step(run, plan)
    assert [c.tool_call_id for c in work.tools] == ["tcall_1"]
    run.end_tool(result("tcall_1", "first"), moment(T0, IDS))
    work = step(run, plan)
    assert work.model is not None
    assert [(m.role, m.content, m.tool_call_id) for m in work.model.messages[2:]] == [
        ("assistant", "", None),
        ("tool", "first", "tcall_1"),
        ("tool", '{"late":true}', "tcall_2"),
    ]
    assert work.model.messages[2].tool_calls[0].tool_call_id == "tcall_1"
    run.end_model(answer(work.model.request_id, "bye"), moment(T0, IDS))
    assert step(run, plan).is_nothing
    assert run.status == "completed"
    assert run.output is not None
    assert run.output.text == "bye"
    assert (run.steps_total, run.tool_calls_total, run.model_calls_total) == (4, 2, 2)


def test_advancing_again_asks_the_same_and_writes_nothing() -> None:
    run = running()
    plan = plan_of(run, spec())
    first = step(run, plan)
    assert types(run.collect()) == ["run.step.started", "model.requested"]
    assert step(run, plan) == first
    assert run.collect() == []


@pytest.mark.parametrize("how", ["unknown", "denied", "not allowed"])
def test_a_call_outside_is_recorded_refused_and_goes_back_to_the_model(how: str) -> None:
    options: dict[str, Any] = {
        "unknown": {},
        "denied": {"tool_denymap": ["tool.echo"], "tool_allowlist": ["tool.echo"]},
        "not allowed": {"tool_allowlist": ["tool.time"]},
    }[how]
    run = running(**options)
    plan = plan_of(run, *([] if how == "unknown" else [spec("tool.echo"), spec("tool.time")]))
    run.end_model(answer(ask(run, plan), "", [("tcall_1", "tool.echo")]), moment(T0, IDS))
    run.collect()
    work = step(run, plan)
    assert types(run.collect())[:3] == [
        "run.step.started",
        "tool.call.completed",
        "run.step.completed",
    ]
    assert work.model is not None
    refused = run.results["tcall_1"]
    assert refused.status == "error"
    assert refused.error is not None
    assert refused.error.code == "forbidden"
    assert json.loads(work.model.messages[-1].content)["error"]["code"] == "forbidden"
    assert run.tool_calls_total == 0


def test_the_steps_of_a_run_are_counted_before_a_model_call() -> None:
    run = running(max_steps=2)
    plan = plan_of(run, spec())
    run.end_model(answer(ask(run, plan), "", [("tcall_1", "tool.echo")]), moment(T0, IDS))
    assert step(run, plan).tools
    run.end_tool(result("tcall_1"), moment(T0, IDS))
    assert step(run, plan).is_nothing
    assert run.error is not None
    assert run.error.code == "max_steps"
    assert run.steps_total == 2


def test_calls_beyond_the_steps_are_not_begun_and_those_begun_are_awaited() -> None:
    run = running(max_steps=3)
    plan = plan_of(run, spec())
    calls = [(f"tcall_{n}", "tool.echo") for n in range(4)]
    run.end_model(answer(ask(run, plan), "", calls), moment(T0, IDS))
    work = step(run, plan)
    assert [c.tool_call_id for c in work.tools] == ["tcall_0", "tcall_1"]
    run.end_tool(result("tcall_0"), moment(T0, IDS))
    assert [c.tool_call_id for c in step(run, plan).tools] == ["tcall_1"]
    run.end_tool(result("tcall_1"), moment(T0, IDS))
    assert step(run, plan).is_nothing
    assert run.error is not None
    assert run.error.code == "max_steps"
    assert run.steps_total == 3


def test_the_last_step_may_be_the_answer() -> None:
    run = running(max_steps=1)
    plan = plan_of(run)
    run.end_model(answer(ask(run, plan)), moment(T0, IDS))
    step(run, plan)
    assert run.status == "completed"


def test_the_smaller_of_the_options_and_the_agents_limits_counts() -> None:
    run = running(max_steps=5, timeout_ms=900)
    assert plan_of(run).max_steps == 5
    plan = plan_of(run, limits=Limits(max_steps=3, timeout_ms=5000))
    assert (plan.max_steps, plan.timeout_ms) == (3, 900)


def test_the_time_is_up_exactly_then() -> None:
    run = running(timeout_ms=1000)
    plan = plan_of(run)
    assert run_deadline(run, plan) == T0 + 1000
    assert not step(run, plan, T0 + 999).is_nothing
    assert step(run, plan, T0 + 1000).is_nothing
    assert run.error is not None
    assert run.error.code == "timeout"


def test_the_time_counts_from_the_first_start_over_all_attempts() -> None:
    run = running(timeout_ms=1000)
    plan = plan_of(run)
    step(run, plan)
    run.start("wrk_2", moment(T0 + 900, IDS))
    assert not step(run, plan, T0 + 999).is_nothing
    assert step(run, plan, T0 + 1000).is_nothing


def test_a_cancel_goes_before_everything_and_open_calls_stay_open() -> None:
    run = running(timeout_ms=1000)
    plan = plan_of(run)
    step(run, plan)
    run.request_cancel("usr_b", None, moment(T0, IDS))
    run.collect()
    assert step(run, plan, T0 + 5000).is_nothing
    assert types(run.collect()) == ["run.canceled"]
    assert run.open_model is not None


def test_a_dry_run_calls_nothing() -> None:
    run = running(dry_run=True)
    assert step(run, plan_of(run, spec())).is_nothing
    assert types(run.collect()) == ["run.step.started", "run.step.completed", "run.completed"]
    assert run.status == "completed"
    assert run.output is None
    assert run.steps_total == 0


def test_a_models_error_is_the_runs() -> None:
    run = running()
    plan = plan_of(run)
    error = error_info(ProviderError("no"))
    run.end_model(answer(ask(run, plan), error=error), moment(T0, IDS))
    assert step(run, plan).is_nothing
    assert run.error == error


def test_a_tools_error_goes_back_to_the_model() -> None:
    run = running()
    plan = plan_of(run, spec())
    run.end_model(answer(ask(run, plan), "", [("tcall_1", "tool.echo")]), moment(T0, IDS))
    step(run, plan)
    error = error_info(ProviderError("no"))
    run.end_tool(result("tcall_1", None, error=error), moment(T0, IDS))
    work = step(run, plan)
    assert work.model is not None
    assert json.loads(work.model.messages[-1].content)["error"]["code"] == "provider_error"


def test_open_calls_are_asked_again_on_resume_with_the_same_ids_and_new_time() -> None:
    run = running(timeout_ms=60_000)
    plan = plan_of(run, spec(timeout=3000))
    first = step(run, plan)
    assert first.model is not None
    run.start("wrk_2", moment(T0 + 10_000, IDS))
    again = step(run, plan, T0 + 10_000)
    assert again.model is not None
    assert again.model.request_id == first.model.request_id
    assert again.deadline_ms == T0 + 60_000
    run.end_model(
        answer(again.model.request_id, "", [("tcall_1", "tool.echo")]), moment(T0 + 10_000, IDS)
    )
    tools = step(run, plan, T0 + 10_000)
    assert tools.deadline_ms == T0 + 13_000
    run.start("wrk_3", moment(T0 + 20_000, IDS))
    resumed = step(run, plan, T0 + 20_000)
    assert resumed.tools == tools.tools
    assert resumed.deadline_ms == T0 + 23_000


def test_no_call_may_last_longer_than_the_run() -> None:
    run = running(timeout_ms=500)
    plan = plan_of(run, spec(timeout=3000))
    work = step(run, plan, T0 + 100)
    assert work.model is not None
    assert work.model.timeout_ms == 400
    assert work.deadline_ms == T0 + 500
    run.end_model(
        answer(work.model.request_id, "", [("tcall_1", "tool.echo")]), moment(T0 + 200, IDS)
    )
    tools = step(run, plan, T0 + 200)
    assert tools.tools[0].timeout_ms == 300


def test_a_model_call_has_its_own_limit_in_a_long_run() -> None:
    run = running(timeout_ms=10_000_000)
    work = step(run, plan_of(run, limits=Limits(max_tokens_per_request=77)))
    assert work.model is not None
    assert work.model.timeout_ms == MODEL_TIMEOUT_MS
    assert work.model.max_output_tokens == 77


def test_the_conversation_leaves_out_results_that_are_not_there() -> None:
    run = running()
    plan = plan_of(run, spec())
    run.end_model(answer(ask(run, plan), "", [("tcall_1", "tool.echo")]), moment(T0, IDS))
    assert [m.role for m in conversation(run, plan.definition)] == ["user", "assistant"]


def test_an_answer_in_the_same_id_twice_does_not_loop() -> None:
    run = running(max_steps=10)
    plan = plan_of(run, spec())
    calls = [("tcall_1", "tool.echo"), ("tcall_1", "tool.echo")]
    run.end_model(answer(ask(run, plan), "", calls), moment(T0, IDS))
    assert [c.tool_call_id for c in step(run, plan).tools] == ["tcall_1"]


def test_a_run_whose_cost_has_reached_its_budget_makes_no_further_model_call() -> None:
    run = running()
    plan = plan_of(run, spec("tool.echo"), limits=Limits(cost_budget_usd=0.5))
    for n in (1, 2):  # each answer costs 0.25
        run.end_model(answer(ask(run, plan), "", [(f"t{n}", "tool.echo")]), moment(T0, IDS))
        assert step(run, plan).tools  # what was asked for is still done
        run.end_tool(result(f"t{n}"), moment(T0, IDS))
    assert step(run, plan).is_nothing
    assert run.status == "failed"
    assert run.error is not None
    assert run.error.code == "budget"
    assert run.error.retryable is False
    assert run.model_calls_total == 2


def test_an_answer_that_spends_the_budget_is_still_the_runs_answer() -> None:
    run = running()
    plan = plan_of(run, limits=Limits(cost_budget_usd=0.25))
    run.end_model(answer(ask(run, plan), "done"), moment(T0, IDS))
    assert step(run, plan).is_nothing
    assert run.status == "completed"


def test_a_budget_that_is_not_reached_does_nothing() -> None:
    run = running()
    plan = plan_of(run, spec("tool.echo"), limits=Limits(cost_budget_usd=0.26))
    run.end_model(answer(ask(run, plan), "", [("t1", "tool.echo")]), moment(T0, IDS))
    step(run, plan)
    run.end_tool(result("t1"), moment(T0, IDS))
    assert step(run, plan).model is not None
