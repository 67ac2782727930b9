"""The handlers of federation: forwards, copies of remote runs, pushed events, known peers."""

import asyncio
from collections.abc import Callable
from typing import Any, Final, TypeVar

from agentos.domain.aggregate import Aggregate, Moment
from agentos.domain.auth import SYSTEM_PRINCIPAL, AuthContext
from agentos.domain.envelope import NO_TRACE, Event, read_line
from agentos.domain.errors import (
    AppendConflictError,
    ConflictError,
    NotFoundError,
    TimedOutError,
)
from agentos.domain.federation.forward import (
    Forward,
    ForwardRequested,
    forward_ref,
    keyed_forward_id,
)
from agentos.domain.federation.ingest import Ingest, ingest_ref
from agentos.domain.federation.peer import Peer, PeerEntry, peer_ref
from agentos.domain.federation.remote import RemoteRun, RunLinked, remote_ref
from agentos.domain.log import make_commit
from agentos.domain.privacy.subject import person_of
from agentos.domain.run.events import RunCreated
from agentos.domain.run.run import run_ref
from agentos.domain.subjects import StreamRef
from agentos.domain.tenant.tenant import Tenant
from agentos.domain.times import rfc3339
from agentos.handlers.commands import (
    AcceptForward,
    AddPeer,
    CopyEvents,
    FailForward,
    IngestEvents,
    NotePeer,
    RemovePeer,
    RequestForward,
)
from agentos.handlers.deciding import decide_once
from agentos.handlers.parts import Parts
from agentos.handlers.retention.report import plan_of
from agentos.handlers.sealing import sealing_key

A = TypeVar("A", bound=Aggregate)
GENERATIONS: Final = 1000
RACES: Final = 20


async def request_forward(
    parts: Parts, auth: AuthContext, command: RequestForward
) -> dict[str, Any]:
    """Write the intent of a forward, or find the one that its idempotency key names.

    Returns `{forward, existing}`; `existing` when nothing was written. Raises why the tenant
    may not act, `ConflictError` when the key stands for something else.
    """
    tenant = await parts.directory.active_tenant(auth.tenant_id)
    at = parts.moment(auth.principal, command.traceparent)
    key = command.request.idempotency_key
    person = person_of(command.request.context.model_dump(), auth.principal.principal_id)
    sealed = await sealing_key(parts, tenant, person)
    if key is None:
        forward_id = parts.new_id("fwd")
        fresh = Forward(forward_ref(auth.tenant_id, forward_id))
        fresh.sealed = sealed
        return await _request(parts, auth, command, fresh, forward_id, at)
    principal = auth.principal.principal_id
    for generation in range(GENERATIONS):
        forward_id = keyed_forward_id(auth.tenant_id, principal, command.agent_id, key, generation)
        known = await _forward(parts, auth.tenant_id, forward_id)
        age = at.now_ms - known.requested_at
        if known.status is None:
            known.sealed = sealed
        if known.status is None or age < parts.idempotency_ttl_ms:
            return await _request(parts, auth, command, known, key, at)
    raise ConflictError("the idempotency key was used too often")


async def _request(
    parts: Parts, auth: AuthContext, command: RequestForward, known: Forward, key: str, at: Moment
) -> dict[str, Any]:
    wanted = ForwardRequested(
        stack_id=command.stack_id,
        agent_id=command.agent_id,
        run_request=command.request.model_dump(mode="json"),
        selector=command.selector,
        idempotency_key=key,
        principal=auth.principal,
        scopes=sorted(auth.scopes),
        policy_context=auth.policy_context,
        attempt=1,
        correlation_id=command.correlation_id,
        parent_span_id=command.parent_span_id,
    )
    forward, is_new = await _decide_from(parts, known, at, lambda f, now: f.request(wanted, now))
    parts.crash_point("federation.after_requested")
    return {"forward": forward.view(), "existing": not is_new}


async def accept_forward(parts: Parts, auth: AuthContext, command: AcceptForward) -> dict[str, Any]:
    """Write that a peer took a run, and begin the copy of its events. Returns `{forward}`.

    The result is written last: as long as it is missing the forward is resumed, and both are
    written once. Raises `ConflictError` when the run is another forward's: then neither is.
    """
    parts.crash_point("federation.before_linked")
    ref = remote_ref(auth.tenant_id, command.remote_run_id)
    forward, last = await asyncio.gather(
        _forward(parts, auth.tenant_id, command.forward_id), parts.log.last(ref)
    )
    if forward.status is None:
        raise NotFoundError("no such forward")
    at = parts.moment(forward.requested.principal, command.traceparent)
    linked = RunLinked(
        stack_id=forward.requested.stack_id,
        forward_id=command.forward_id,
        agent_id=forward.requested.agent_id,
        events_url=command.remote_events_url,
        status=command.status,
        created_at=command.created_at or rfc3339(at.now_ms),
        run_options=forward.requested.run_request["run_options"],
        labels=forward.requested.run_request["context"].get("labels"),
        correlation_id=forward.requested.correlation_id,
    )
    remote = RemoteRun(ref)
    remote.sealed = forward.sealed
    if last is not None:
        remote = await parts.directory.reload(RemoteRun, ref)
    run_id, url, status = command.remote_run_id, command.remote_events_url, command.status
    forward.accept(run_id, url, status, at)
    await _decide_from(parts, remote, at, lambda found, now: found.link(linked, now))
    parts.crash_point("federation.after_linked")
    accepted, _ = await _decide_from(
        parts, forward, at, lambda f, now: f.accept(run_id, url, status, now)
    )
    parts.crash_point("federation.after_accepted")
    return {"forward": accepted.view()}


async def fail_forward(parts: Parts, auth: AuthContext, command: FailForward) -> dict[str, Any]:
    """Write that a forward's attempt failed. Returns `{forward}` as it stands then."""
    ref = forward_ref(auth.tenant_id, command.forward_id)
    at = parts.moment(auth.principal, command.traceparent)
    decided = await decide_once(
        parts, Forward, ref, at, lambda found, now: found.fail(command.error, now)
    )
    return {"forward": decided.aggregate.view()}


async def copy_events(parts: Parts, auth: AuthContext, command: CopyEvents) -> dict[str, Any]:
    """Continue the copy of a remote run. Returns `{copied, ended}`.

    Raises `ConflictError` for what is not that run's next event: nothing of the batch is kept.
    """
    ref = remote_ref(auth.tenant_id, command.run_id)
    lines = [line.encode() for line in command.lines]

    def decide(remote: RemoteRun, at: Moment) -> list[Event]:
        if command.missing_to is not None:
            return remote.miss(command.missing_to, command.reason, at, ended=command.ended)
        return remote.copy(lines, at, filled_by=command.filled_by, cut_ms=command.cut_ms)

    remote = await _decide_on_copy(parts, ref, decide)
    parts.crash_point("federation.after_copied")
    return {"copied": remote.copied, "ended": remote.has_ended}


async def _decide_on_copy(
    parts: Parts, ref: StreamRef, decide: Callable[[RemoteRun, Moment], list[Event]]
) -> RemoteRun:
    """Decide on a copy that is kept in memory: a long run is not read again for each batch."""
    for _ in range(RACES):
        remote = await parts.directory.reload(RemoteRun, ref)
        events = decide(remote, parts.moment(SYSTEM_PRINCIPAL, NO_TRACE))
        if not events:
            return remote
        commit = make_commit(ref, events, parts.new_id, sealed=remote.sealed)
        try:
            await parts.log.append(commit, expected=remote.position)
        except AppendConflictError:
            continue
        return await parts.directory.reload(RemoteRun, ref)
    raise TimedOutError("the copy changes too fast; try again")


async def ingest_events(parts: Parts, auth: AuthContext, command: IngestEvents) -> dict[str, Any]:
    """Keep what a peer pushed of one run. Returns `{accepted, rejected, missing}`.

    All of it is rejected when this node executes the run, or has executed it.
    """
    tenant = await parts.directory.active_tenant(auth.tenant_id)
    count = len(command.lines)
    run_id = command.run_id
    if run_id is not None and await _is_or_was_ours(parts, run_ref(auth.tenant_id, run_id)):
        return {"accepted": 0, "rejected": count, "missing": []}
    lines = [line.encode() for line in command.lines]
    ref = ingest_ref(auth.tenant_id, command.source_stack_id, command.run_id)
    at = parts.moment(auth.principal, command.traceparent)
    for _ in range(RACES):
        ingest = await parts.directory.reload(Ingest, ref)
        events, found = ingest.take(command.source_stack_id, command.run_id, lines, at)
        if events:
            sealed = ingest.sealed or await _pushed_key(parts, tenant, auth, command)
            try:
                commit = make_commit(ref, events, parts.new_id, sealed=sealed)
                await parts.log.append(commit, expected=ingest.position)
            except AppendConflictError:
                continue
            ingest = await parts.directory.reload(Ingest, ref)
        return {
            "accepted": len(found.lines),
            "rejected": found.rejected,
            "missing": [list(gap) for gap in ingest.gaps()[:20]],
        }
    raise TimedOutError("others push the same run too fast; try again")


async def _is_or_was_ours(parts: Parts, ref: StreamRef) -> bool:
    """Whether this node executes a run or has executed it, also one that retention let go."""
    own = await parts.log.last(ref)
    if own is not None:
        return not own.is_void
    return await plan_of(parts.log, ref) is not None


async def _pushed_key(
    parts: Parts, tenant: Tenant, auth: AuthContext, command: IngestEvents
) -> str:
    """Return the key of what a peer pushes: of the run's copy, or of whom its creation names.

    A push that says neither is kept as its sender's.
    """
    if command.run_id is not None:
        copy = await parts.directory.reload(RemoteRun, remote_ref(auth.tenant_id, command.run_id))
        if copy.sealed:
            return copy.sealed
    person = auth.principal.principal_id
    for inner in map(read_line, (line.encode() for line in command.lines)):
        if inner["type"] == RunCreated.TYPE and isinstance(inner["payload"].get("context"), dict):
            person = person_of(inner["payload"]["context"], person)
    return await sealing_key(parts, tenant, person)


async def note_peer(parts: Parts, auth: AuthContext, command: NotePeer) -> dict[str, Any]:
    """Write that a peer answers, or no longer does; once each."""

    def decide(peer: Peer, at: Moment) -> list[Event]:
        if command.state == "live":
            return peer.see(command.protocol, command.build, at)
        return peer.lose(command.reason, at)

    return await _decide_on_peer(parts, auth, command.stack_id, command.traceparent, decide)


async def add_peer(parts: Parts, auth: AuthContext, command: AddPeer) -> dict[str, Any]:
    """Make a peer known at runtime, or change what is known of it."""
    entry: PeerEntry = command.entry

    def decide(peer: Peer, at: Moment) -> list[Event]:
        return peer.add(entry, at)

    return await _decide_on_peer(parts, auth, entry.stack_id, command.traceparent, decide)


async def remove_peer(parts: Parts, auth: AuthContext, command: RemovePeer) -> dict[str, Any]:
    """Forget a peer that was added; `NotFoundError` for any other."""

    def decide(peer: Peer, at: Moment) -> list[Event]:
        return peer.remove(at)

    return await _decide_on_peer(parts, auth, command.stack_id, command.traceparent, decide)


async def _decide_on_peer(
    parts: Parts,
    auth: AuthContext,
    stack_id: str,
    traceparent: str,
    decide: Callable[[Peer, Moment], list[Event]],
) -> dict[str, Any]:
    at = parts.moment(auth.principal, traceparent)
    decided = await decide_once(parts, Peer, peer_ref(stack_id), at, decide)
    return {"stack_id": stack_id, "state": decided.aggregate.state}


async def _decide_from(
    parts: Parts, known: A, at: Moment, decision: Callable[[A, Moment], list[Event]]
) -> tuple[A, bool]:
    """Decide on an aggregate that was just read, or is new; it is read again after a lost race.

    Returns the aggregate behind the decision, and whether anything was written.
    """
    events = decision(known, at)
    if not events:
        return known, False
    try:
        commit = make_commit(known.ref, events, parts.new_id, sealed=known.sealed)
        position = await parts.log.append(commit, expected=known.position)
    except AppendConflictError:
        decided = await decide_once(parts, type(known), known.ref, at, decision)
        return decided.aggregate, bool(decided.events)
    for event in events:
        known.evolve(event)
    known.position = position
    return known, True


async def _forward(parts: Parts, tenant_id: str, forward_id: str) -> Forward:
    ref = forward_ref(tenant_id, forward_id)
    return Forward(ref).fold(await parts.log.read(ref))
