"""How a run asks for an approval and what a decision does to it: each call of these is a fact.

The question stands in the log before anybody can answer it, and an answer before the call: the
call's own intent follows once an executor has the run again.
"""

from typing import Any

from agentos.domain.aggregate import Moment
from agentos.domain.auth import SYSTEM_PRINCIPAL
from agentos.domain.errors import InvalidStateTransitionError, NotFoundError
from agentos.domain.run.approvals import EXPIRED, Approval, Decision
from agentos.domain.run.events import (
    CallInAnswer,
    ErrorInfo,
    StepCompleted,
    StepStarted,
    ToolCallApprovalRequired,
    ToolCallApproved,
    ToolCallCompleted,
    ToolCallRejected,
    ToolCallRequested,
)
from agentos.domain.run.run import Run
from agentos.domain.times import rfc3339

NAMES = "approval_required:"
NOT_APPROVED = "the call was not approved"


def ask_approval(run: Run, call: CallInAnswer, at: Moment) -> None:
    """Begin the step of a call that a person must decide on; nothing is called."""
    said = call.policy
    reasons = said.reasons if said else []
    wait_ms = said.wait_ms if said else None
    required = ToolCallApprovalRequired(
        tool_call_id=call.tool_call_id,
        tool_id=call.tool_id,
        approval_id=at.new_id("apr"),
        reason=next((reason for reason in reasons if reason.startswith(NAMES)), NAMES),
        expires_at=None if wait_ms is None else rfc3339(run.later(at.now_ms) + wait_ms),
    )
    started = StepStarted(step_kind="tool", name=call.tool_id)
    run.stage(at, started, required, step_id=at.new_id("stp"))


def decide_approval(
    run: Run, approval_id: str, decision: Decision, by: str, reason: str | None, at: Moment
) -> None:
    """Let a person decide; one that was decided stays as it is, whatever is said of it now.

    Whoever comes too late finds it expired. Raises `NotFoundError` for an approval that was
    never asked for, `InvalidStateTransitionError` when the run has ended or is being stopped.
    """
    approval = run.approvals.all.get(approval_id)
    if approval is None:
        raise NotFoundError("no such approval")
    if approval.decision is not None:
        return
    if run.is_final:
        raise InvalidStateTransitionError("the run has ended", status=run.status)
    if run.cancel is not None:
        raise InvalidStateTransitionError("the run is being canceled", status=run.status)
    if _is_over(approval, run.later(at.now_ms)):
        decision, by, reason = "reject", SYSTEM_PRINCIPAL.principal_id, EXPIRED
    record_decision(run, approval_id, decision, by, reason, at)


def expire_approvals(run: Run, at: Moment) -> None:
    """Reject what nobody has decided in its time."""
    if run.is_final or run.cancel is not None:
        return
    for approval in list(run.approvals.asked.values()):
        if _is_over(approval, run.later(at.now_ms)):
            _reject(run, approval, SYSTEM_PRINCIPAL.principal_id, EXPIRED, at)


def record_decision(
    run: Run, approval_id: str, decision: Decision, by: str, reason: str | None, at: Moment
) -> None:
    """Write down a decision on an approval that has none. Raises `InvalidStateTransitionError`."""
    approval = run.approvals.all.get(approval_id)
    if approval is None or approval.decision is not None:
        raise InvalidStateTransitionError("no such approval waits", status=run.status)
    if decision == "reject":
        _reject(run, approval, by, reason, at)
        return
    approved = ToolCallApproved(
        tool_call_id=approval.tool_call_id, approval_id=approval_id, by=by, reason=reason
    )
    run.stage(at, approved, step_id=approval.step_id)


def begin_approved(run: Run, requested: ToolCallRequested, at: Moment) -> None:
    """Write down the intent of a call that was approved, in the step that asked for it."""
    run.stage(at, requested, step_id=_granted(run, requested.tool_call_id).step_id)


def refuse_approved(run: Run, completed: ToolCallCompleted, at: Moment) -> None:
    """Write down that an approved call is not made all the same: the tool is gone."""
    _end_step(run, _granted(run, completed.tool_call_id), completed, at)


def _granted(run: Run, tool_call_id: str) -> Approval:
    approval = run.approvals.granted.get(tool_call_id)
    if approval is None:
        raise InvalidStateTransitionError("no such call was approved", status=run.status)
    return approval


def _is_over(approval: Approval, now_ms: int) -> bool:
    return approval.expires_ms is not None and now_ms >= approval.expires_ms


def _reject(run: Run, approval: Approval, by: str, reason: str | None, at: Moment) -> None:
    rejected = ToolCallRejected(
        tool_call_id=approval.tool_call_id, approval_id=approval.approval_id, by=by, reason=reason
    )
    details = {"tool_id": approval.tool_id, "approval_id": approval.approval_id}
    if reason is not None:
        details["reason"] = reason
    completed = ToolCallCompleted(
        tool_call_id=approval.tool_call_id,
        tool_id=approval.tool_id,
        status="error",
        output=None,
        duration_ms=0,
        error=ErrorInfo(code="approval_rejected", message=NOT_APPROVED, details=details),
    )
    run.stage(at, rejected, step_id=approval.step_id)
    _end_step(run, approval, completed, at)


def _end_step(run: Run, approval: Approval, completed: ToolCallCompleted, at: Moment) -> None:
    step = StepCompleted(
        step_kind="tool", name=approval.tool_id, status="error", duration_ms=completed.duration_ms
    )
    run.stage(at, completed, step, step_id=approval.step_id)


def approval_view(run: Run, approval: Approval) -> dict[str, Any]:
    """Return an approval as the API shows it; while it is pending, with the call's arguments.

    One that the run's end left without a decision is `closed`.
    """
    view = {**approval.view(), "run_id": run.ref.aggregate_id, "agent_id": run.agent_id}
    if approval.decision is not None:
        return view
    if run.is_final:
        return {**view, "status": "closed"}
    calls = (call for answer in run.answers for call in answer.tool_calls)
    asked = next(call for call in calls if call.tool_call_id == approval.tool_call_id)
    return {**view, "input": asked.arguments}
