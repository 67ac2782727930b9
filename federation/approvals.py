"""Approvals of runs at peers: shown from the copy, decided where the run is executed."""

from typing import Final
from urllib.parse import quote

from starlette.requests import Request
from starlette.types import ASGIApp

from agentos.domain.aggregate import FoldError, read_event
from agentos.domain.errors import DependencyUnavailableError
from agentos.domain.federation.remote import RemoteRun, copied_lines
from agentos.domain.run.approving import approval_view
from agentos.domain.run.run import Run, run_ref
from agentos.federation.door import Federation, federation_of
from agentos.federation.runs import Asked, ask_there, find_remote
from agentos.federation.schemas import ApprovalDecide
from agentos.gateways.http.answers import Answer, json_answer
from agentos.gateways.http.authorization import require
from agentos.gateways.http.bodies import narrowed, read_body
from agentos.gateways.http.call import call_of
from agentos.gateways.http.parameters import PathName

APPROVAL_ID: Final = PathName("approval_id", "the approval's id")
SCOPE: Final = "tools:approve"


async def decide_remote_approval(request: Request) -> ASGIApp:
    """Say yes or no to a tool call of a run, where it is executed."""
    federation = federation_of(request)
    remote = await find_remote(federation, call_of(request.scope).caller, request)
    if remote is None:
        return await federation.ports.local_decide(request)
    return await decide_elsewhere(federation, remote, request)


async def decide_elsewhere(federation: Federation, remote: RemoteRun, request: Request) -> Answer:
    """Send a decision to the peer that has the run, with the caller's own right to decide.

    The same decision again is the same there, so an answer that was lost is asked for again.
    """
    call = call_of(request.scope)
    approval_id = APPROVAL_ID.read(request)
    body = await read_body(request, ApprovalDecide)
    auth = narrowed(call.caller, body.auth)
    require(auth, SCOPE)
    content: dict[str, str] = {"decision": body.decision}
    if body.reason is not None:
        content["reason"] = body.reason
    path = f"/approvals/{quote(approval_id, safe='')}"
    asked = Asked(path, content, request.headers.get("idempotency-key"), {SCOPE})
    answer = await ask_there(federation, auth, remote, asked, call)
    run = {**answer["run"], "remote": remote.view()["remote"]}
    shown = {"approval": answer.get("approval"), "run": run}
    return json_answer(shown, call.correlation_id)


async def list_remote_approvals(request: Request) -> ASGIApp:
    """Return what a run at a peer has asked people for, as the copy of its events has it."""
    federation = federation_of(request)
    remote = await find_remote(federation, call_of(request.scope).caller, request)
    if remote is None:
        return await federation.ports.local_approvals(request)
    return await approvals_elsewhere(federation, remote, request)


async def approvals_elsewhere(
    federation: Federation, remote: RemoteRun, request: Request
) -> Answer:
    """Return the approvals of a remote run from its copy; the peer need not be there."""
    ref = remote.ref
    run = Run(run_ref(ref.tenant_id, ref.aggregate_id))
    try:
        for _, line in copied_lines(await federation.ports.log.read(ref)):
            run.evolve(read_event(line, Run.PAYLOADS))
    except FoldError as exc:  # a gap: what is behind it may be anything
        raise DependencyUnavailableError(
            "the copy of the run has a gap; ask its peer", dependency="federation"
        ) from exc
    views = [approval_view(run, approval) for approval in run.approvals.all.values()]
    return json_answer({"approvals": views}, call_of(request.scope).correlation_id)
