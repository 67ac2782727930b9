"""The handlers of a run's commands: create and cancel."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

from agentos.domain.aggregate import Moment
from agentos.domain.auth import AuthContext
from agentos.domain.envelope import Origin
from agentos.domain.errors import (
    AgentOSError,
    AppendConflictError,
    ConflictError,
    DependencyUnavailableError,
    NotFoundError,
    RateLimitedError,
    TimedOutError,
)
from agentos.domain.log import Recorded, make_commit
from agentos.domain.ports import WorkItem
from agentos.domain.privacy.subject import subject_of
from agentos.domain.run.events import RunCreated
from agentos.domain.run.forking import Past
from agentos.domain.run.idempotency import RunKey, may_be_older
from agentos.domain.run.run import Run, run_ref
from agentos.domain.subjects import StreamRef, cancel_notice
from agentos.domain.tenant.tenant import Tenant
from agentos.handlers.admission import Slot
from agentos.handlers.commands import CancelRun, CreateRun
from agentos.handlers.parts import Parts
from agentos.handlers.sealing import sealing_key

GENERATIONS: Final = 1000
RACES: Final = 20
BODY: Final = ("input", "context", "tooling", "run_options", "fork")
"""What must be the same for an idempotency key to name the same run."""


@dataclass(frozen=True, slots=True)
class Beginning:
    """How a run begins: its first fact, and the past that a fork takes over.

    `is_sealed` says that the past is, and so the run is too, whatever its tenant has switched.
    """

    agent_id: str
    created: RunCreated
    past: Past = field(default_factory=list)
    is_sealed: bool = False


async def create_run(parts: Parts, auth: AuthContext, command: CreateRun) -> dict[str, Any]:
    """Start a run, or find the one that its idempotency key names.

    Returns `{run, position, existing}`. Raises why it is refused: tenant, agent, quota, rate;
    `ConflictError` when the key stands for another body.
    """
    tenant = await parts.directory.active_tenant(auth.tenant_id)
    definition = await parts.directory.runnable(auth.tenant_id, command.agent_id)
    at = parts.moment(auth.principal, command.traceparent, command.command_id or "")
    beginning = Beginning(command.agent_id, _created(auth, command, definition.version))
    return await begin_run(parts, auth, tenant, beginning, at)


async def begin_run(
    parts: Parts, auth: AuthContext, tenant: Tenant, beginning: Beginning, at: Moment
) -> dict[str, Any]:
    """Admit a run and write its beginning, or find the one that its idempotency key names.

    As `create_run`, once it is known that the tenant and the agent may.
    """
    if beginning.created.idempotency_key is None:
        parts.dispatcher.require_room(auth.tenant_id)
        slot = await _reserve(parts, tenant, run_id=parts.new_id("run"))
        if slot.error is not None:
            raise _denied(parts, slot.error)
        run = await _write_created(parts, beginning, slot, at, tenant)
        if run is None:
            raise DependencyUnavailableError("the run's place was closed; try again")
        return _answer(run, existing=False)
    return await _create_keyed(parts, auth, tenant, beginning, at)


async def _create_keyed(
    parts: Parts, auth: AuthContext, tenant: Tenant, beginning: Beginning, at: Moment
) -> dict[str, Any]:
    created = beginning.created
    principal = auth.principal.principal_id
    key = RunKey(
        auth.tenant_id,
        principal,
        beginning.agent_id,
        created.idempotency_key or "",
        created.origin_stack_id,
    )
    for generation in range(GENERATIONS):
        slot = await _reserve_keyed(parts, tenant, key, generation)
        if slot.may_be_older and (prior := await _prior(parts, key, slot)) is not None:
            _give_back(parts, auth.tenant_id, slot, prior)
            return _same(prior, created)
        if slot.error is None:
            run = await _write_created(parts, beginning, slot, at, tenant)
            if run is not None:
                return _answer(run, existing=False)
        found = await _find(parts, run_ref(auth.tenant_id, slot.run_id))
        if found is None or found.is_void:
            if slot.error is not None:
                raise _denied(parts, slot.error)
            if found is not None:
                parts.desks.on_final(auth.tenant_id, slot.run_id)  # nothing can begin there
            continue
        _give_back(parts, auth.tenant_id, slot, found)
        if at.now_ms - found.created_at < parts.idempotency_ttl_ms:
            return _same(found, created)
    raise ConflictError("the idempotency key was used too often")


def _denied(parts: Parts, error: AgentOSError) -> AgentOSError:
    parts.metrics.quota_denied.labels(error.code).inc()
    return error


async def _reserve_keyed(parts: Parts, tenant: Tenant, key: RunKey, generation: int) -> Slot:
    """Ask for a slot; where there is no room to ask, say so for the run that the key names."""
    try:
        parts.dispatcher.require_room(key.tenant_id)
        return await _reserve(parts, tenant, key=key, generation=generation)
    except RateLimitedError as error:
        now = parts.clock.now_ms()
        older = may_be_older(now, parts.idempotency_ttl_ms)
        return Slot(key.run_id(now, generation), False, now, older, error)


async def _reserve(
    parts: Parts,
    tenant: Tenant,
    *,
    run_id: str = "",
    key: RunKey | None = None,
    generation: int = 0,
) -> Slot:
    """Ask for a slot; a refusal by limits that were raised meanwhile does not count.

    The desk has read on before it refuses, so the directory knows by then.
    """
    limits, tenant_id = tenant.run_limits, tenant.ref.tenant_id
    slot = await parts.desks.reserve(
        tenant_id, limits, run_id=run_id, key=key, generation=generation
    )
    if slot.error is None:
        return slot
    fresh = (await parts.directory.get(Tenant, tenant.ref)).run_limits
    if fresh == limits:
        return slot
    return await parts.desks.reserve(
        tenant_id, fresh, run_id=run_id, key=key, generation=generation
    )


def _created(auth: AuthContext, command: CreateRun, version: str) -> RunCreated:
    request = command.request
    return RunCreated(
        input=request.input.model_dump(),
        context=request.context.model_dump(),
        tooling=request.tooling.model_dump(mode="json"),
        run_options=request.run_options.model_dump(),
        principal=auth.principal,
        policy_context=auth.policy_context,
        agent_version=version,
        idempotency_key=request.idempotency_key,
        correlation_id=command.correlation_id,
        scopes=sorted(auth.scopes),
        origin_stack_id=auth.stack_id,
        parent_span_id=command.parent_span_id,
    )


async def _write_created(
    parts: Parts, beginning: Beginning, slot: Slot, at: Moment, tenant: Tenant
) -> Run | None:
    """Append `run.created` and offer the run; `None` when its subject has a first message."""
    parts.crash_point("handlers.after_reserved")
    run = Run(run_ref(tenant.ref.tenant_id, slot.run_id))
    created = beginning.created
    run.sealed = await sealing_key(parts, tenant, subject_of(created), always=beginning.is_sealed)
    run.create(beginning.agent_id, created, at)
    run.adopt(beginning.past, at)
    priority = created.run_options["priority"]
    commit = make_commit(
        run.ref,
        run.collect(),
        parts.new_id,
        command_id=at.origin.command_id,
        priority=priority,
        sealed=run.sealed,
    )
    try:
        run.position = await parts.log.append(commit, expected=0)
    except AppendConflictError:
        return None
    parts.crash_point("handlers.after_created")
    record = Recorded(
        commit.ref,
        commit.commit_id,
        commit.first_sequence,
        commit.types,
        commit.body,
        command_id=commit.command_id,
        priority=priority,
        position=run.position,
    )
    # A sealed run's item is empty: the queue holds no content, the executor reads the log.
    records = () if run.sealed else (record,)
    await parts.dispatcher.offer(WorkItem(run.ref, run.position, records), priority)
    return run


async def _find(parts: Parts, ref: StreamRef) -> Run | None:
    records = await parts.log.read(ref)
    return Run(ref).fold(records) if records else None


async def _prior(parts: Parts, key: RunKey, slot: Slot) -> Run | None:
    """Return the run that the key named in the epoch before, if it is young enough."""
    newest: Run | None = None
    for generation in range(GENERATIONS):
        run_id = key.run_id(slot.time_ms, generation, epochs_ago=1)
        found = await _find(parts, run_ref(key.tenant_id, run_id))
        if found is None:
            if run_id in parts.desks.desk(key.tenant_id).admission.active:
                if slot.is_new:
                    parts.desks.on_final(key.tenant_id, slot.run_id)
                raise TimedOutError("a run with this key is being made; try again")
            break
        newest = newest if found.is_void else found
    if newest is None or slot.time_ms - newest.created_at >= parts.idempotency_ttl_ms:
        return None
    return newest


def _give_back(parts: Parts, tenant_id: str, slot: Slot, found: Run) -> None:
    if slot.is_new and (found.is_final or found.ref.aggregate_id != slot.run_id):
        parts.desks.on_final(tenant_id, slot.run_id)


def _same(run: Run, asked: RunCreated) -> dict[str, Any]:
    # What is erased cannot be compared any more: the key names the run that it named.
    names = BODY if run.is_readable else BODY[1:]
    if any(getattr(run.created, name) != getattr(asked, name) for name in names):
        raise ConflictError("the idempotency key was used for a different body")
    return _answer(run, existing=True)


def _answer(run: Run, *, existing: bool) -> dict[str, Any]:
    return {"run": run.view(), "position": run.position, "existing": existing}


async def cancel_run(parts: Parts, auth: AuthContext, command: CancelRun) -> dict[str, Any]:
    """Ask a run to stop. With no live lease holder it is canceled here and now.

    Returns `{run, position}`; the final event may still be the lease holder's to write.
    Raises `NotFoundError`, and `InvalidStateTransitionError` from a final state.
    """
    await parts.directory.active_tenant(auth.tenant_id)
    ref = run_ref(auth.tenant_id, command.run_id)
    at = parts.moment_of(auth, command)

    async def decide(run: Run, records: list[Recorded]) -> None:
        if _was_done(records, command.command_id):
            return
        run.request_cancel(auth.principal.principal_id, command.reason, at)
        if not parts.dispatcher.has_live_holder(run):
            run.finish_cancel(at)

    run = await decide_on_run(parts, ref, decide, at.origin)
    if not run.is_final:
        await parts.signals.publish(cancel_notice(ref.aggregate_id), b"")
    return {"run": run.view(), "position": run.position}


async def decide_on_run(
    parts: Parts,
    ref: StreamRef,
    decide: Callable[[Run, list[Recorded]], Awaitable[None]],
    origin: Origin | None = None,
) -> Run:
    """Fold the run, let `decide` stage events, append them; again when another was first."""
    for _ in range(RACES):
        records = await parts.log.read(ref)
        run = Run(ref).fold(records)
        if run.status is None:
            raise NotFoundError("no such run")
        await decide(run, records)
        staged = run.collect()
        if not staged:
            return run
        commit = make_commit(
            ref,
            staged,
            parts.new_id,
            command_id=origin.command_id if origin else "",
            correlation_id=origin.correlation_id if origin else "",
            by_tenant=origin.tenant_id if origin else "",
            sealed=run.sealed,
            waits_until=run.waits_until,
        )
        try:
            run.position = await parts.log.append(commit, expected=run.position)
        except AppendConflictError:
            continue
        if run.is_final:
            parts.metrics.runs.labels(run.status).inc()
        return run
    raise TimedOutError("the run changes too fast; try again")


def _was_done(records: list[Recorded], command_id: str | None) -> bool:
    return command_id is not None and any(r.command_id == command_id for r in records)
