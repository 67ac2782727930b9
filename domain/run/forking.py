"""What a fork takes over: the facts of a run's first steps, under ids of its own."""

from collections.abc import Callable, Sequence
from typing import Any

from agentos.domain.envelope import Event, Payload
from agentos.domain.errors import InvalidStateTransitionError
from agentos.domain.run.events import (
    AnswerMessage,
    ModelCompleted,
    ModelRequested,
    StepStarted,
    TokenUsage,
    ToolCallApprovalRequired,
    ToolCallApproved,
    ToolCallCompleted,
    ToolCallRejected,
    ToolCallRequested,
)
from agentos.domain.run.run import STEP_FACTS

Past = list[tuple[str, Payload]]
APPROVALS = ToolCallApprovalRequired | ToolCallApproved | ToolCallRejected
BEGINS_A_CALL = ToolCallRequested | ToolCallApprovalRequired
NOT_PAID = TokenUsage(input_tokens=0, output_tokens=0, total_tokens=0)


def past_before(events: Sequence[Event], step: int) -> Past:
    """Return the facts of the steps before `step` (1, 2, 3 …), each with its step's id.

    A step is one model call or one tool call, in the order in which they began. Raises
    `InvalidStateTransitionError` where the run had no such step, or one before it never ended.
    """
    steps = [e.step_id for e in events if _begins_a_step(e)]
    if not 1 <= step <= len(steps):
        raise InvalidStateTransitionError(
            "the run has no such step", steps_total=len(steps), from_step=step
        )
    wanted = {step_id for step_id in steps[: step - 1] if step_id}
    past: Past = [
        (event.step_id or "", event.payload)
        for event in events
        if event.step_id in wanted and isinstance(event.payload, STEP_FACTS)
    ]
    _require_ended(past)
    return past


def renewed(past: Past, new_id: Callable[[str], str]) -> Past:
    """Return the past under new ids of steps, requests and tool calls; nothing in it is paid.

    A tool call that is made again must have another idempotency key than the old run's call.
    """
    ids: dict[str, str] = {}

    def new(prefix: str, old: str) -> str:
        if old not in ids:
            ids[old] = new_id(prefix)
        return ids[old]

    return [(new("stp", step_id), _renewed(payload, new)) for step_id, payload in past]


def _begins_a_step(event: Event) -> bool:
    payload = event.payload
    return isinstance(payload, StepStarted) and payload.step_kind in ("model", "tool")


def _require_ended(past: Past) -> None:
    asked = {p.request_id for _, p in past if isinstance(p, ModelRequested)}
    asked |= {p.tool_call_id for _, p in past if isinstance(p, BEGINS_A_CALL)}
    asked -= {p.request_id for _, p in past if isinstance(p, ModelCompleted)}
    asked -= {p.tool_call_id for _, p in past if isinstance(p, ToolCallCompleted)}
    if asked:
        raise InvalidStateTransitionError("a step before it has no result in the log")


def _renewed(payload: Payload, new: Callable[[str, str], str]) -> Payload:
    changed: dict[str, Any] = {}
    if isinstance(payload, ModelRequested | ModelCompleted):
        changed["request_id"] = new("req", payload.request_id)
    if isinstance(payload, ToolCallRequested | ToolCallCompleted | APPROVALS):
        changed["tool_call_id"] = new("tcall", payload.tool_call_id)
    if isinstance(payload, APPROVALS):
        changed["approval_id"] = new("apr", payload.approval_id)
    if isinstance(payload, ModelCompleted):
        changed |= {"usage": NOT_PAID, "cost_usd": 0.0}
        if payload.message is not None:
            changed["message"] = _answer(payload.message, new)
    return payload.model_copy(update=changed)


def _answer(message: AnswerMessage, new: Callable[[str, str], str]) -> AnswerMessage:
    calls = [
        call.model_copy(update={"tool_call_id": new("tcall", call.tool_call_id)})
        for call in message.tool_calls
    ]
    return message.model_copy(update={"tool_calls": calls})
