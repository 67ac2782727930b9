"""The routes of approvals: what a run waits for, and a person's decision on it."""

from starlette.requests import Request
from starlette.types import ASGIApp

from agentos.domain.errors import NotFoundError
from agentos.domain.run.approving import approval_view
from agentos.domain.run.run import Run, run_ref
from agentos.gateways.http.answers import Answer, json_answer
from agentos.gateways.http.authorization import require
from agentos.gateways.http.bodies import narrowed, read_body
from agentos.gateways.http.call import call_of
from agentos.gateways.orchestrator.parts import parts_of
from agentos.gateways.orchestrator.queries import APPROVAL_ID, RUN_ID, read_command_id
from agentos.gateways.orchestrator.schemas import ApprovalDecide

COMMAND_S = 10.0


async def decide_approval(request: Request) -> ASGIApp:
    """Say yes or no to a tool call.

    200 once the decision is durably in the log, and again for the same decision; 409 where it was
    decided otherwise, or the run has ended. On a run at a peer it is decided there.
    """
    try:
        return await decide_here(request)
    except NotFoundError:
        elsewhere = parts_of(request).elsewhere
        if elsewhere is None or await _is_here(request):
            raise
        return await elsewhere.decide(request)


async def decide_here(request: Request) -> Answer:
    """Decide on a tool call of a run of this node; `NotFoundError` for any other."""
    call = call_of(request.scope)
    run_id, approval_id = RUN_ID.read(request), APPROVAL_ID.read(request)
    body = await read_body(request, ApprovalDecide)
    auth = narrowed(call.caller, body.auth)
    require(auth, "tools:approve")
    command = {
        "run_id": run_id,
        "approval_id": approval_id,
        "decision": body.decision,
        "reason": body.reason,
        "traceparent": call.traceparent,
        "correlation_id": call.correlation_id,
        "command_id": read_command_id(request),
    }
    answer = await parts_of(request).bus.send("approval.decide", auth, command, timeout=COMMAND_S)
    shown = {"approval": answer["approval"], "run": answer["run"]}
    return json_answer(shown, call.correlation_id)


async def list_run_approvals(request: Request) -> ASGIApp:
    """Return what a run has asked people for, in its order, as the log has it at this moment."""
    try:
        return await list_here(request)
    except NotFoundError:
        elsewhere = parts_of(request).elsewhere
        if elsewhere is None:
            raise
        return await elsewhere.approvals(request)


async def list_here(request: Request) -> Answer:
    """Return the approvals of a run of this node; `NotFoundError` for any other."""
    call = call_of(request.scope)
    ref = run_ref(call.caller.tenant_id, RUN_ID.read(request))
    run = Run(ref).fold(await parts_of(request).log.read(ref))
    if run.status is None:
        raise NotFoundError("no such run")
    views = [approval_view(run, approval) for approval in run.approvals.all.values()]
    return json_answer({"approvals": views}, call.correlation_id)


async def _is_here(request: Request) -> bool:
    """Whether this node executes the run: then it is the approval that is not there."""
    tenant_id = call_of(request.scope).caller.tenant_id
    return await parts_of(request).log.last(run_ref(tenant_id, RUN_ID.read(request))) is not None
