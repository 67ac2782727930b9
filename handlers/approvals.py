"""The handler of a decision on a tool call, and the end of the time in which to make it."""

from typing import Any

import structlog

from agentos.domain.auth import SYSTEM_PRINCIPAL, AuthContext
from agentos.domain.envelope import NO_TRACE
from agentos.domain.errors import ForbiddenError, InvalidStateTransitionError, NotFoundError
from agentos.domain.log import Recorded
from agentos.domain.ports import WorkItem
from agentos.domain.run.approving import approval_view, decide_approval, expire_approvals
from agentos.domain.run.run import Run, run_ref
from agentos.handlers.commands import DecideApproval
from agentos.handlers.parts import Parts
from agentos.handlers.runs import decide_on_run
from agentos.handlers.tolerant import tolerant
from agentos.handlers.watch import LiveRun

log = structlog.get_logger()
SCOPE = "tools:approve"


async def decide_on_approval(
    parts: Parts, auth: AuthContext, command: DecideApproval
) -> dict[str, Any]:
    """Let a person say yes or no to a tool call; the run goes on where nothing else waits.

    There is one decision for ever: the same again changes nothing. Returns `{run, approval,
    position}`. Raises `NotFoundError` for a run or approval that is not there,
    `InvalidStateTransitionError` when it was decided otherwise (also: nobody did in time) or the
    run has ended.
    """
    if SCOPE not in auth.scopes:
        raise ForbiddenError(f"the scope {SCOPE} is missing", required_scope=SCOPE)
    await parts.directory.active_tenant(auth.tenant_id)
    at = parts.moment_of(auth, command)
    is_new = False

    async def decide(run: Run, records: list[Recorded]) -> None:
        nonlocal is_new
        by = auth.principal.principal_id
        decide_approval(run, command.approval_id, command.decision, by, command.reason, at)
        is_new = bool(run.staged)

    run = await decide_on_run(parts, run_ref(auth.tenant_id, command.run_id), decide, at.origin)
    parts.crash_point("handlers.after_decided")
    if is_new:
        await _offer(parts, run)
    approval = run.approvals.all[command.approval_id]
    if approval.decision != command.decision or approval.status == "expired":
        raise InvalidStateTransitionError(
            f"the approval is {approval.status}", status=approval.status, by=approval.by
        )
    return {"run": run.view(), "approval": approval_view(run, approval), "position": run.position}


async def expire_overdue(parts: Parts) -> None:
    """Reject what nobody has decided in its time: a durable timer, the log is its clock."""
    for live in parts.dispatcher.overdue():
        with tolerant(parts, live.ref):
            await _expire(parts, live)


async def _expire(parts: Parts, live: LiveRun) -> None:
    at = parts.moment(SYSTEM_PRINCIPAL, NO_TRACE)

    async def decide(run: Run, records: list[Recorded]) -> None:
        expire_approvals(run, at)

    try:
        run = await decide_on_run(parts, live.ref, decide)
    except NotFoundError:
        parts.watch.runs.pop(live.ref, None)
        return
    log.info("approval expired", run_id=live.ref.aggregate_id, tenant_id=live.ref.tenant_id)
    await _offer(parts, run)


async def _offer(parts: Parts, run: Run) -> None:
    """Queue the run again, unless it still waits or an executor has it."""
    if run.is_final or run.is_waiting or parts.dispatcher.has_live_holder(run):
        return
    item = WorkItem(run.ref, run.position)
    await parts.dispatcher.offer(item, run.created.run_options["priority"])
