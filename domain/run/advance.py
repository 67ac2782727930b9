"""The agent loop's decisions: what a run does next, from nothing but its state.

`advance` stages every event that is known without asking the world, then says what must be
asked: one model call, or tool calls side by side. A replay recomputes exactly this.
"""

from collections.abc import Callable
from dataclasses import dataclass

from pydantic_core import to_json

from agentos.domain.agent.agent import Definition
from agentos.domain.aggregate import Moment
from agentos.domain.errors import (
    AgentOSError,
    BudgetSpentError,
    ForbiddenError,
    MaxStepsError,
    PolicyBlockedError,
    TimedOutError,
)
from agentos.domain.ports import (
    CallOrigin,
    ChatMessage,
    ModelRequest,
    RequestedToolCall,
    ToolCall,
    ToolOffer,
    ToolSpec,
)
from agentos.domain.run.approving import ask_approval, begin_approved, refuse_approved
from agentos.domain.run.events import (
    CallInAnswer,
    ErrorInfo,
    OfferedTool,
    Output,
    StepCompleted,
    StepStarted,
    ToolCallCompleted,
    ToolCallRequested,
)
from agentos.domain.run.run import Run

MODEL_TIMEOUT_MS = 120_000


@dataclass(frozen=True, slots=True)
class Plan:
    """What an agent's definition and a run's options come to together."""

    definition: Definition
    tools: dict[str, ToolSpec]
    max_steps: int
    timeout_ms: int
    cost_budget_usd: float | None = None

    def offered(self) -> list[OfferedTool]:
        """Return what the log keeps of the tools: all that a decision looks at."""
        return [
            OfferedTool(tool_id=name, timeout_ms=spec.timeout_ms)
            for name, spec in self.tools.items()
        ]


@dataclass(frozen=True, slots=True)
class Work:
    """What to ask the world: a model, or some tools side by side.

    Empty when the run has ended, and when it waits for a person.
    """

    model: ModelRequest | None = None
    tools: tuple[ToolCall, ...] = ()
    deadline_ms: int = 0

    @property
    def is_nothing(self) -> bool:
        """Whether there is nothing to do: the run has ended, or waits."""
        return self.model is None and not self.tools


def make_plan(run: Run, definition: Definition, spec: Callable[[str], ToolSpec | None]) -> Plan:
    """Return what the run may do; a tool that nobody knows any more is left out."""
    tooling = run.created.tooling
    allowed = tooling.get("tool_allowlist")
    denied = tooling.get("tool_denymap") or ()
    names = (t for t in definition.tools if (allowed is None or t in allowed) and t not in denied)
    options, limits = run.created.run_options, definition.limits
    return Plan(
        definition=definition,
        tools={name: found for name in names if (found := spec(name)) is not None},
        max_steps=_least(options["max_steps"], limits.max_steps if limits else None),
        timeout_ms=_least(options["timeout_ms"], limits.timeout_ms if limits else None),
        cost_budget_usd=limits.cost_budget_usd if limits else None,
    )


def advance(run: Run, plan: Plan, at: Moment) -> Work:
    """Stage what follows, and return what must be asked next."""
    while not run.is_final:
        if run.cancel is not None:
            run.finish_cancel(at)
        elif _counted(run, at) >= run_deadline(run, plan):
            run.fail(error_info(TimedOutError("the run's time is up")), at)
        elif run.approvals.granted:
            _begin_approved(run, plan, at)
        elif run.open_model or run.open_tools:
            return _open_work(run, plan)
        elif run.is_waiting:
            return Work()
        else:
            _next(run, plan, at)
    return Work()


def run_deadline(run: Run, plan: Plan) -> int:
    """Return when the run's time is up (epoch ms).

    It counts from the first start, and not while the run waits for an approval.
    """
    return (run.started_at or run.time) + plan.timeout_ms + run.waited_ms


def conversation(run: Run, definition: Definition) -> list[ChatMessage]:
    """Return the messages that the next model call is asked to answer."""
    messages = [ChatMessage("user", run.created.input["text"])]
    if definition.instructions:
        messages.insert(0, ChatMessage("system", definition.instructions))
    for answer in run.answers:
        calls = tuple(
            RequestedToolCall(c.tool_call_id, c.tool_id, c.name, c.arguments)
            for c in answer.tool_calls
        )
        messages.append(ChatMessage("assistant", answer.content, tool_calls=calls))
        messages += (
            ChatMessage("tool", tool_content(run.results[c.tool_call_id]), c.tool_call_id)
            for c in answer.tool_calls
            if c.tool_call_id in run.results
        )
    return messages


def tool_content(result: ToolCallCompleted) -> str:
    """Return a tool's result as the model reads it."""
    if result.error is not None:
        return to_json({"error": result.error.model_dump()}).decode()
    if isinstance(result.output, str):
        return result.output
    return to_json(result.output).decode()


def error_info(error: AgentOSError) -> ErrorInfo:
    """Return an error as events carry it."""
    return ErrorInfo.model_validate(error.to_wire())


def _least(a: int, b: int | None) -> int:
    return a if b is None else min(a, b)


def _counted(run: Run, at: Moment) -> int:
    """Return up to when the run's time counts: while it waits, up to what was last written."""
    return run.time if run.is_waiting else run.later(at.now_ms)


def _next(run: Run, plan: Plan, at: Moment) -> None:
    if run.model_error is not None:
        run.fail(run.model_error, at)
    elif run.created.run_options["dry_run"]:
        _dry_run(run, plan, at)
    elif unanswered := run.unanswered():
        _begin_tools(run, plan, unanswered, at)
    elif run.answers and not run.answers[-1].tool_calls:
        run.complete(Output(text=run.answers[-1].content), at)
    elif run.steps_total >= plan.max_steps:
        run.fail(error_info(MaxStepsError("the run used all its steps")), at)
    elif (budget := plan.cost_budget_usd) is not None and run.cost_usd >= budget:
        error = BudgetSpentError("the run has used its cost budget", limit=budget)
        run.fail(error_info(error), at)
    else:
        messages = conversation(run, plan.definition)
        run.begin_model(plan.definition.model_ref, len(messages), bool(plan.tools), at)


def _dry_run(run: Run, plan: Plan, at: Moment) -> None:
    name = plan.definition.model_ref
    started = StepStarted(step_kind="plan", name=name, message="dry run: nothing is called")
    done = StepCompleted(step_kind="plan", name=name, status="ok", duration_ms=0)
    run.stage(at, started, done, step_id=at.new_id("stp"))
    run.complete(None, at)


def _begin_tools(run: Run, plan: Plan, unanswered: list[str], at: Moment) -> None:
    calls = {call.tool_call_id: call for call in run.answers[-1].tool_calls}
    for call_id in unanswered:
        call = calls[call_id]
        if run.steps_total >= plan.max_steps:
            if not run.open_tools:
                run.fail(error_info(MaxStepsError("the run used all its steps")), at)
            return
        spec = plan.tools.get(call.tool_id)
        if spec is None:
            run.refuse_tool(_forbidden(call), at)
        elif call.policy is None:
            run.begin_tool(_requested(run, plan, call, spec, at), at)
        elif call.policy.decision == "blocked":
            run.refuse_tool(_blocked(call, call.policy.reasons), at)
        elif not run.approvals.holds(call_id):
            ask_approval(run, call, at)


def _begin_approved(run: Run, plan: Plan, at: Moment) -> None:
    """Begin what was approved; a tool that the run may not use any more is not called."""
    calls = {call.tool_call_id: call for call in run.answers[-1].tool_calls}
    for call_id in list(run.approvals.granted):
        call = calls[call_id]
        spec = plan.tools.get(call.tool_id)
        if spec is None:
            refuse_approved(run, _forbidden(call), at)
        else:
            begin_approved(run, _requested(run, plan, call, spec, at), at)


def _forbidden(call: CallInAnswer) -> ToolCallCompleted:
    error = ForbiddenError("the tool is not allowed in this run", tool_id=call.tool_id)
    return _refusal(call, error)


def _blocked(call: CallInAnswer, reasons: list[str]) -> ToolCallCompleted:
    error = PolicyBlockedError(
        "policy does not allow this call", tool_id=call.tool_id, reasons=reasons
    )
    return _refusal(call, error)


def _refusal(call: CallInAnswer, error: AgentOSError) -> ToolCallCompleted:
    return ToolCallCompleted(
        tool_call_id=call.tool_call_id,
        tool_id=call.tool_id,
        status="error",
        output=None,
        duration_ms=0,
        error=error_info(error),
    )


def _requested(
    run: Run, plan: Plan, call: CallInAnswer, spec: ToolSpec, at: Moment
) -> ToolCallRequested:
    left = run_deadline(run, plan) - run.later(at.now_ms)
    return ToolCallRequested(
        tool_call_id=call.tool_call_id,
        tool_id=call.tool_id,
        input=call.arguments,
        timeout_ms=max(1, min(spec.timeout_ms, left)),
    )


def _offer(spec: ToolSpec) -> ToolOffer:
    return ToolOffer(spec.tool_id, spec.tool_id, spec.description, spec.input_schema)


def _open_work(run: Run, plan: Plan) -> Work:
    """Return the open calls; one that an earlier attempt began has its time from this one on."""
    end = run_deadline(run, plan)
    if run.open_model is not None:
        request_id, call = run.open_model
        begun = max(call.started_ms, run.attempt_at)
        limit = max(1, min(MODEL_TIMEOUT_MS, end - begun))
        limits = plan.definition.limits
        trace = run.trace_of(call.step_id)
        request = ModelRequest(
            request_id=request_id,
            model_ref=call.name,
            messages=conversation(run, plan.definition),
            tools=tuple(_offer(spec) for spec in plan.tools.values()),
            max_output_tokens=limits.max_tokens_per_request if limits else None,
            timeout_ms=limit,
            origin=CallOrigin(
                agent_id=run.agent_id,
                run_id=run.ref.aggregate_id,
                labels=run.created.context.get("labels") or {},
                is_first=call.started_ms >= run.attempt_at,
                sealed=run.sealed,
                traceparent=trace.traceparent if trace else "",
            ),
        )
        return Work(model=request, deadline_ms=begun + limit)
    calls = tuple(
        ToolCall(call_id, c.name, c.arguments or {}, run.ref.aggregate_id, c.timeout_ms)
        for call_id, c in run.open_tools.items()
    )
    last = max(max(c.started_ms, run.attempt_at) + c.timeout_ms for c in run.open_tools.values())
    return Work(tools=calls, deadline_ms=last)
