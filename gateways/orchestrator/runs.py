"""The routes of runs: create, list, get, wait, cancel."""

import asyncio
from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp

from agentos.domain.auth import AuthContext
from agentos.domain.errors import InvalidStateTransitionError, NotFoundError, TimedOutError
from agentos.domain.run.events import FINAL_TYPES
from agentos.domain.run.run import run_ref
from agentos.gateways.http.answers import Answer, json_answer
from agentos.gateways.http.authorization import require
from agentos.gateways.http.bodies import narrowed, parse_body, read_body, read_raw
from agentos.gateways.http.call import Call, call_of
from agentos.gateways.http.tail import FinalWaiter
from agentos.gateways.orchestrator.parts import Parts, parts_of
from agentos.gateways.orchestrator.queries import (
    AGENT_ID,
    CURSOR,
    LIMIT,
    RUN_ID,
    TIMEOUT_MS,
    read_command_id,
    run_filters,
)
from agentos.gateways.orchestrator.reading import (
    events_gone,
    folded_run,
    has_ended,
    is_final,
    load_remote_run,
    load_run,
    purged_run,
    view_of,
)
from agentos.gateways.orchestrator.schemas import RunCancel, RunCreate, RunFork

COMMAND_S = 10.0


async def create_run(request: Request) -> Answer:
    """Start a run of an agent.

    201 with the run once it is durably in the log; 200 with the run that is there when the
    idempotency key repeats.
    """
    call = call_of(request.scope)
    answer = await send_create(request, call)
    status = 200 if answer["existing"] else 201
    return json_answer({"run": answer["run"]}, call.correlation_id, status)


async def send_create(request: Request, call: Call) -> dict[str, Any]:
    """Read the body, send `run.create`, and return `{run, position, existing}`."""
    agent_id = AGENT_ID.read(request)
    body = await read_body(request, RunCreate)
    auth = narrowed(call.caller, body.auth)
    require(auth, "runs:create")
    command = {
        "agent_id": agent_id,
        "request": body.model_dump(exclude=NOT_FORWARDED),
        "traceparent": call.traceparent,
        "parent_span_id": call.parent_span_id,
        "correlation_id": call.correlation_id,
    }
    return await parts_of(request).bus.send("run.create", auth, command, timeout=COMMAND_S)


NOT_FORWARDED = {"auth"}


async def fork_run(request: Request) -> Answer:
    """Start a run that begins with another's recorded past and goes on by itself.

    201 with the run; 200 with the run that is there when the `Idempotency-Key` repeats.
    """
    call = call_of(request.scope)
    run_id = RUN_ID.read(request)
    body = await read_body(request, RunFork)
    auth = narrowed(call.caller, body.auth)
    require(auth, "runs:create")
    command = {
        "run_id": run_id,
        "from_step": body.from_step,
        "idempotency_key": read_command_id(request),
        "traceparent": call.traceparent,
        "parent_span_id": call.parent_span_id,
        "correlation_id": call.correlation_id,
    }
    parts = parts_of(request)
    try:
        answer = await parts.bus.send("run.fork", auth, command, timeout=COMMAND_S)
    except NotFoundError:
        if (purged := await purged_run(parts, run_ref(auth.tenant_id, run_id))) is None:
            raise
        raise events_gone(purged) from None
    status = 200 if answer["existing"] else 201
    return json_answer({"run": answer["run"]}, call.correlation_id, status)


async def list_runs(request: Request) -> Answer:
    """List runs, newest first; `label.<k>=<v>` filters by labels. It may lag by a second."""
    call = call_of(request.scope)
    parts, tenant_id = parts_of(request), call.caller.tenant_id
    page = await parts.reads.list_runs(
        tenant_id,
        run_filters(request),
        LIMIT.read(request) or 0,
        CURSOR.raw(request),
    )
    runs = [await parts.opened(tenant_id, row.view()) for row in page.runs]
    content: dict[str, Any] = {"runs": runs}
    if page.next_cursor is not None:
        content["next_cursor"] = page.next_cursor
    return json_answer(content, call.correlation_id)


async def get_run(request: Request) -> Answer:
    """Return one run as it is now."""
    call = call_of(request.scope)
    run = await load_run(parts_of(request), call.caller.tenant_id, RUN_ID.read(request))
    return json_answer({"run": run}, call.correlation_id)


async def wait_for_run(request: Request) -> Answer:
    """Return one run once it is final, or as it is when the time is up."""
    call = call_of(request.scope)
    run_id = RUN_ID.read(request)
    seconds = (TIMEOUT_MS.read(request) or 0) / 1000
    until = asyncio.get_running_loop().time() + seconds
    parts = parts_of(request)
    try:
        run = await _await_final(parts, call.caller, run_id, until)
    except NotFoundError:
        run = await _await_copied(parts, call.caller, run_id, until)
    return json_answer({"run": run}, call.correlation_id)


async def _await_copied(
    parts: Parts, auth: AuthContext, run_id: str, until: float
) -> dict[str, Any]:
    run = await load_remote_run(parts, auth.tenant_id, run_id)
    if parts.elsewhere is None or is_final(run):
        return run
    await parts.elsewhere.ended(auth.tenant_id, run_id, until)
    return await load_remote_run(parts, auth.tenant_id, run_id)


async def _await_final(
    parts: Parts, auth: AuthContext, run_id: str, until: float
) -> dict[str, Any]:
    ref = run_ref(auth.tenant_id, run_id)
    waiter = FinalWaiter(FINAL_TYPES)
    try:
        with parts.tail.listening_to(ref, waiter):
            while not await has_ended(parts, ref):
                if not await waiter.wait(until):
                    break
        return folded_run(ref.tenant_id, run_id, await parts.log.read(ref))
    except NotFoundError:
        if (purged := await purged_run(parts, ref)) is None:
            raise
        return await view_of(parts, ref.tenant_id, purged)


async def cancel_run(request: Request) -> ASGIApp:
    """Stop a run: 200 once its final event is written, so that no call starts any more.

    A run that a peer executes is stopped there.
    """
    try:
        return await cancel_here(request)
    except NotFoundError:
        elsewhere = parts_of(request).elsewhere
        if elsewhere is None:
            raise
        return await elsewhere.cancel(request)


async def cancel_here(request: Request) -> Answer:
    """Stop a run of this node; `NotFoundError` for any other."""
    call = call_of(request.scope)
    parts = parts_of(request)
    run_id = RUN_ID.read(request)
    raw = await read_raw(request)
    body = parse_body(raw, RunCancel) if raw.strip() else RunCancel()
    auth = narrowed(call.caller, body.auth)
    require(auth, "runs:cancel")
    command: dict[str, Any] = {
        "run_id": run_id,
        "reason": body.reason,
        "traceparent": call.traceparent,
        "correlation_id": call.correlation_id,
        "command_id": read_command_id(request),
    }
    until = asyncio.get_running_loop().time() + parts.cancel_s
    waiter = FinalWaiter(FINAL_TYPES)
    with parts.tail.listening_to(run_ref(auth.tenant_id, run_id), waiter):
        answer = await _send_cancel(parts, auth, command)
        run = answer["run"]
        while not is_final(run):
            in_time = await waiter.wait(until)
            run = await load_run(parts, auth.tenant_id, run_id)
            if not in_time and not is_final(run):
                raise TimedOutError("the run has not stopped yet; the request stands")
    return json_answer({"run": run}, call.correlation_id)


async def _send_cancel(parts: Parts, auth: AuthContext, command: dict[str, Any]) -> dict[str, Any]:
    """Send `run.cancel`; a run whose events are gone has ended, as the read model says how."""
    try:
        return await parts.bus.send("run.cancel", auth, command, timeout=parts.cancel_s)
    except NotFoundError:
        purged = await purged_run(parts, run_ref(auth.tenant_id, command["run_id"]))
        if purged is None:
            raise
        status = purged.view()["status"]
        raise InvalidStateTransitionError(f"the run is {status}", status=status) from None
