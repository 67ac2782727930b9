"""The routes of runs at peers: forward, events, cancel; and the ingest of what peers push."""

import asyncio
import time
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from typing import Any, Final

from starlette.requests import Request
from starlette.types import ASGIApp

from agentos.domain.auth import AuthContext
from agentos.domain.errors import (
    AgentOSError,
    ConflictError,
    ForwardFailedError,
    NotFoundError,
)
from agentos.domain.federation.forward import forward_ref
from agentos.domain.federation.peer import PeerUnreachableError
from agentos.domain.federation.remote import RemoteRun, remote_ref
from agentos.domain.federation.selection import choose
from agentos.domain.ids import is_named_id
from agentos.federation.door import Federation, federation_of
from agentos.federation.ingest import ingest, read_batch, require_peer
from agentos.federation.parameters import read_deltas, read_sequence, read_types
from agentos.federation.proxy import RemoteEvents, Wanted
from agentos.federation.refusals import may_pass, refusal_of
from agentos.federation.schemas import CancelBody, ForwardBody, ForwardPart
from agentos.gateways.http.answers import Answer, json_answer
from agentos.gateways.http.authorization import require
from agentos.gateways.http.bodies import narrowed, parse_body, read_body, read_raw
from agentos.gateways.http.call import Call, call_of
from agentos.gateways.http.parameters import PathId

RUN_ID: Final = PathId("run_id", "the remote run's id, or the forward's")
COMMAND_S: Final = 10.0


async def forward_run(request: Request) -> Answer:
    """Start a run at the node that fits; where this one does, here.

    The answer comes once the peer has made the run. The same idempotency key never makes a
    second one, whatever was lost in between.
    """
    federation, call = federation_of(request), call_of(request.scope)
    body = (await read_body(request, ForwardBody)).forward
    auth = narrowed(call.caller, body.auth)
    call.continue_from(body.traceparent)
    stack_id = await _target(federation, auth, body)
    if stack_id == federation.ports.local.info.stack_id:
        forwarded = await _run_here(federation, auth, body, call)
    elif auth.stack_id is not None:
        raise ConflictError("a forwarded run is not forwarded again", stack_id=stack_id)
    else:
        forwarded = await _run_there(federation, auth, body, call, stack_id)
    return json_answer({"forwarded": forwarded}, call.correlation_id)


async def _target(federation: Federation, auth: AuthContext, body: ForwardPart) -> str:
    """Return the stack that the run goes to; a key that was used goes where it went."""
    request, selector = body.run_request, body.target_selector
    now_ms = round(time.time() * 1000)
    known = await federation.forwarder.known(
        auth, request.agent_id, request.idempotency_key, now_ms
    )
    if known is not None:
        return known.requested.stack_id
    local = await federation.book.local()
    if selector.stack_id != local.info.stack_id:
        await federation.book.ask_unknown(selector.stack_id)
    try:
        chosen = choose(selector, local, federation.book.candidates(auth.tenant_id, selector))
    except (NotFoundError, ConflictError):
        if selector.stack_id is not None or not await federation.book.ask_lost():
            raise
        chosen = choose(selector, local, federation.book.candidates(auth.tenant_id, selector))
    return chosen.info.stack_id


async def _run_here(
    federation: Federation, auth: AuthContext, body: ForwardPart, call: Call
) -> dict[str, Any]:
    local = federation.ports.local.info
    command = {
        "agent_id": body.run_request.agent_id,
        "request": body.run_request.model_dump(exclude={"agent_id"}),
        "traceparent": call.traceparent,
        "parent_span_id": call.parent_span_id,
        "correlation_id": call.correlation_id,
    }
    answer = await federation.ports.bus.send("run.create", auth, command, timeout=COMMAND_S)
    run = answer["run"]
    base = local.endpoints.orchestrator.rstrip("/")
    return {
        "tenant_id": auth.tenant_id,
        "remote_stack_id": local.stack_id,
        "remote_run_id": run["run_id"],
        "remote_events_url": f"{base}/v1/runs/{run['run_id']}/events",
        "status": "queued",
    }


async def _run_there(
    federation: Federation,
    auth: AuthContext,
    body: ForwardPart,
    call: Call,
    stack_id: str,
) -> dict[str, Any]:
    command = {
        "agent_id": body.run_request.agent_id,
        "request": body.run_request.model_dump(mode="json", exclude={"agent_id"}),
        "stack_id": stack_id,
        "selector": body.target_selector.model_dump(mode="json"),
        "traceparent": call.traceparent,
        "parent_span_id": call.parent_span_id,
        "correlation_id": call.correlation_id,
    }
    forward_id, accepted = await federation.forwarder.forward(auth, command)
    return {
        "tenant_id": auth.tenant_id,
        "remote_stack_id": accepted.stack_id,
        "remote_run_id": accepted.remote_run_id,
        "remote_events_url": accepted.remote_events_url,
        "status": accepted.status,
        "forward_id": forward_id,
    }


async def stream_remote_events(request: Request) -> ASGIApp:
    """Stream a remote run's events, live from its peer; from the copy when the peer is gone."""
    federation = federation_of(request)
    remote = await find_remote(federation, call_of(request.scope).caller, request)
    if remote is None:
        return await federation.ports.local_events(request)
    return events_elsewhere(federation, remote, request)


def events_elsewhere(federation: Federation, remote: RemoteRun, request: Request) -> ASGIApp:
    """Return the stream of a remote run's events that a request asks for."""
    wanted = Wanted(
        remote.ref,
        remote.linked.stack_id,
        after_sequence=read_sequence(request),
        types=read_types(request),
        deltas=read_deltas(request),
    )
    auth = call_of(request.scope).caller
    return RemoteEvents(federation.ports, federation.book, federation.credentials, auth, wanted)


async def cancel_remote_run(request: Request) -> ASGIApp:
    """Cancel a run where it is executed: 200 once it has stopped there."""
    federation = federation_of(request)
    remote = await find_remote(federation, call_of(request.scope).caller, request)
    if remote is None:
        return await federation.ports.local_cancel(request)
    return await cancel_elsewhere(federation, remote, request)


async def cancel_elsewhere(federation: Federation, remote: RemoteRun, request: Request) -> ASGIApp:
    """Cancel a remote run as a request asks."""
    call = call_of(request.scope)
    raw = await read_raw(request)
    body = parse_body(raw, CancelBody) if raw.strip() else CancelBody()
    auth = narrowed(call.caller, body.auth)
    require(auth, "runs:cancel")
    key = request.headers.get("idempotency-key")
    run = await _cancel_there(federation, auth, remote, body, call, key)
    return json_answer({"run": run}, call.correlation_id)


async def find_remote(
    federation: Federation, caller: AuthContext, request: Request
) -> RemoteRun | None:
    """Return the remote run that the path names, by its own id or the forward's.

    `None` is a run of this node, or none at all. Raises `NotFoundError`, and `ConflictError`
    for a forward whose peer has not answered yet.
    """
    run_id, tenant_id = RUN_ID.read(request), caller.tenant_id
    calls = federation.forwarder.calls
    if is_named_id(run_id, "fwd"):
        ref = forward_ref(tenant_id, run_id)
        await calls.settled(calls.run_of(ref), COMMAND_S)
        forward = await federation.forwarder.read(ref)
        if forward is None:
            raise NotFoundError("no such forward")
        if forward.accepted is None:
            raise ConflictError("the peer has not taken the run", status=forward.status)
        run_id = forward.accepted.remote_run_id
    ref = remote_ref(tenant_id, run_id)
    await calls.settled(ref, COMMAND_S)
    remote = RemoteRun(ref).fold(await federation.ports.log.read(ref))
    return None if remote.view_state is None else remote


async def _cancel_there(
    federation: Federation,
    auth: AuthContext,
    remote: RemoteRun,
    body: CancelBody,
    call: Call,
    key: str | None,
) -> dict[str, Any]:
    """Ask the peer to cancel; a repeat finds the run canceled."""

    def is_canceled(error: AgentOSError) -> dict[str, Any] | None:
        found = error.details.get("status") == "canceled"
        return {"run": {**remote.view(), "status": "canceled"}} if found else None

    content = {} if body.reason is None else {"reason": body.reason}
    asked = Asked(":cancel", content, key, on_repeat=is_canceled)
    answer = await ask_there(federation, auth, remote, asked, call)
    return {**answer["run"], "remote": remote.view()["remote"]}


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked of a peer about a run: the path behind the run's, the body, the key.

    `scopes` are those of the caller that the call needs beside a user's. `on_repeat` says what a
    refusal means where an answer before it was lost.
    """

    path: str
    content: Mapping[str, Any]
    key: str | None = None
    scopes: Set[str] = frozenset()
    on_repeat: Callable[[AgentOSError], dict[str, Any] | None] = lambda _: None


async def ask_there(
    federation: Federation, auth: AuthContext, remote: RemoteRun, asked: Asked, call: Call
) -> dict[str, Any]:
    """Ask the peer that has a run, as patiently as a forward; returns its answer, with `run`.

    Raises what the peer refuses it with, and `ForwardFailedError`.
    """
    stack_id, run_id = remote.linked.stack_id, remote.ref.aggregate_id
    retries = federation.ports.peering.retries
    error: AgentOSError = ForwardFailedError(f"{stack_id} was not reached", stack_id=stack_id)
    for attempt in range(1, retries.attempts + 1):
        known = federation.book.get(stack_id)
        if known is None:
            break
        url = f"{known.entry.runs_url}/v1/runs/{run_id}{asked.path}"
        headers = federation.credentials.of_caller(
            known.entry, auth, call.traceparent, more=asked.scopes
        )
        headers |= {} if asked.key is None else {"Idempotency-Key": asked.key}
        try:
            answer = await federation.ports.peering.client.call(
                known.entry, "POST", url, headers, asked.content, timeout=retries.call_s + 5
            )
        except PeerUnreachableError as exc:
            error = ForwardFailedError(
                f"{stack_id} was not reached", stack_id=stack_id, reason=str(exc)[:300]
            )
        else:
            run = answer[1].get("run")
            if answer[0] == 200 and isinstance(run, dict):
                return answer[1]
            error = refusal_of(answer, stack_id)
            if attempt > 1 and (meant := asked.on_repeat(error)) is not None:
                return meant
            if not may_pass(answer[0]):
                raise error
        if attempt < retries.attempts:
            await asyncio.sleep(retries.base_s * 2 ** (attempt - 1))
    raise error


async def ingest_events(request: Request) -> Answer:
    """Take in events that a peer pushes; what is answered as accepted is durable."""
    federation, call = federation_of(request), call_of(request.scope)
    require_peer(request, call.caller)
    body = await read_batch(request)
    accepted, rejected = await ingest(
        federation.ports, federation.book, federation.gate, call.caller, body, call.traceparent
    )
    return json_answer({"accepted": accepted, "rejected": rejected}, call.correlation_id)
