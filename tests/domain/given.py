"""What the domain tests are given: moments with counted ids, runs, and a log made of a list."""

from collections.abc import Sequence
from dataclasses import fields
from itertools import count
from typing import Any

from agentos.domain.agent.agent import Definition, Limits
from agentos.domain.aggregate import Aggregate, Moment, read_events
from agentos.domain.auth import PolicyContext, Principal
from agentos.domain.envelope import Event, Origin
from agentos.domain.ids import make_id
from agentos.domain.log import Commit, Recorded, make_commit
from agentos.domain.ports import ToolNature, ToolSpec
from agentos.domain.run.advance import Plan, make_plan
from agentos.domain.run.events import (
    AnswerMessage,
    CallInAnswer,
    CallPolicy,
    ErrorInfo,
    ModelCompleted,
    PolicyOutcome,
    RouteTaken,
    RunCreated,
    TokenUsage,
    ToolCallCompleted,
)
from agentos.domain.run.run import Run, run_ref

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
T0 = 1_800_000_000_000
ANNA = Principal(principal_id="usr_anna")


class Ids:
    """New ids, counted: the same test makes the same ones."""

    def __init__(self, start: int = 1) -> None:
        self._count = count(start)

    def __call__(self, prefix: str) -> str:
        """Return the next id."""
        return make_id(prefix, T0, next(self._count))


def moment(now_ms: int = T0, new_id: Ids | None = None, principal: Principal = ANNA) -> Moment:
    """Return a moment of a decision."""
    return Moment(now_ms, new_id or Ids(now_ms), Origin(TRACE, principal))


def created(text: str = "hello", **options: Any) -> RunCreated:
    """Return the first fact of a run; `options` go into its run options."""
    tooling = {k: options.pop(k) for k in ("tool_allowlist", "tool_denymap") if k in options}
    defaults = {
        "priority": "normal",
        "timeout_ms": 180_000,
        "max_steps": 30,
        "stream_events": True,
        "dry_run": False,
    }
    return RunCreated(
        input={"type": "text", "text": text},
        context={"locale": "en-US", "timezone": "UTC"},
        tooling=tooling,
        run_options=defaults | options,
        principal=ANNA,
        policy_context=PolicyContext(),
        agent_version="1",
        scopes=["models:invoke", "tools:invoke"],
    )


def queued(new_id: Ids | None = None, now_ms: int = T0, text: str = "hello", **options: Any) -> Run:
    """Return a run that was created at `now_ms`; its event is collected."""
    run = Run(run_ref("tnt_a", "run_1"))
    run.create("agt_a", created(text, **options), moment(now_ms, new_id))
    run.collect()
    return run


def running(new_id: Ids | None = None, now_ms: int = T0, **options: Any) -> Run:
    """Return a run that was created and started at `now_ms`."""
    new_id = new_id or Ids()
    run = queued(new_id, now_ms, **options)
    run.start("wrk_1", moment(now_ms, new_id))
    run.collect()
    return run


def spec(
    tool_id: str = "tool.echo", nature: ToolNature = "idempotent", timeout: int = 1000
) -> ToolSpec:
    """Return a tool."""
    return ToolSpec(tool_id, "a tool", {"type": "object"}, nature, timeout)


def plan_of(run: Run, *tools: ToolSpec, limits: Limits | None = None, **definition: Any) -> Plan:
    """Return the plan of a run of an agent with those tools."""
    table = {tool.tool_id: tool for tool in tools}
    agent = Definition(
        name="a", model_ref="builtin/echo", tools=tuple(table), limits=limits, **definition
    )
    return make_plan(run, agent, table.get)


def answer(
    request_id: str, content: str = "done", calls: Sequence[tuple[str, str]] = (), **more: Any
) -> ModelCompleted:
    """Return a model's answer; `calls` are pairs of tool call id and tool id.

    `policies` says of some of them (by tool) what policy said.
    """
    policies: dict[str, CallPolicy] = more.get("policies") or {}
    asked = [
        CallInAnswer(
            tool_call_id=i, tool_id=tool, name=tool, arguments={"n": i}, policy=policies.get(tool)
        )
        for i, tool in calls
    ]
    error: ErrorInfo | None = more.get("error")
    return ModelCompleted(
        request_id=request_id,
        model_ref="builtin/echo",
        status="error" if error else "ok",
        usage=TokenUsage(input_tokens=3, output_tokens=4, total_tokens=7),
        cost_usd=0.25,
        latency_ms=5,
        policy_outcome=PolicyOutcome(),
        route=RouteTaken(backend="builtin", model="echo", node="stk_local"),
        message=None if error else AnswerMessage(content=content, tool_calls=asked),
        error=error,
    )


ASKS = CallPolicy(
    decision="approval_required", reasons=["pol_a@1", "approval_required:boss"], wait_ms=60_000
)
BLOCKS = CallPolicy(decision="blocked", reasons=["pol_a@1", "block:never"])


def result(
    call_id: str, output: Any = "fine", tool_id: str = "tool.echo", **more: Any
) -> ToolCallCompleted:
    """Return a tool's result."""
    error: ErrorInfo | None = more.get("error")
    return ToolCallCompleted(
        tool_call_id=call_id,
        tool_id=tool_id,
        status="error" if error else "ok",
        output=output,
        duration_ms=2,
        error=error,
    )


def recorded(commit: Commit, position: int) -> Recorded:
    """Return a commit as the log holds it."""
    values = {field.name: getattr(commit, field.name) for field in fields(Commit)}
    return Recorded(**values, position=position)


def written(
    aggregate: Aggregate, events: Sequence[Event], position: int, base: int = 0
) -> Recorded:
    """Return events as the log holds them."""
    return recorded(make_commit(aggregate.ref, events, Ids(), base=base), position)


def types(events: Sequence[Event]) -> list[str]:
    """Return the events' short names."""
    return [event.type.removeprefix("agentos.") for event in events]


def state(aggregate: Aggregate) -> dict[str, Any]:
    """Return all that an aggregate knows but its place in the log."""
    return {k: v for k, v in vars(aggregate).items() if k not in ("position", "staged")}


def reread(aggregate: Aggregate, events: Sequence[Event]) -> list[Event]:
    """Return events as they come back from their bytes."""
    return read_events(written(aggregate, events, 1), aggregate.PAYLOADS) if events else []
