"""A read of one object sees every write before it, whatever the read model's lag."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from agentos.domain.agent.agent import Agent, agent_ref
from agentos.domain.errors import AgentOSError, CursorExpiredError, NotFoundError
from agentos.domain.federation.remote import RemoteRun, remote_ref
from agentos.domain.log import Recorded
from agentos.domain.retention.retention import gone_of, retention_ref
from agentos.domain.retention.rules import Kind
from agentos.domain.run.events import FINAL_TYPES
from agentos.domain.run.run import FINAL, Run, run_ref
from agentos.domain.subjects import StreamRef
from agentos.gateways.orchestrator.parts import Parts, RunView

ROW_S: Final = 0.5
Look = Callable[[str, str], Awaitable[RunView | None]]


async def load_run(parts: Parts, tenant_id: str, run_id: str) -> dict[str, Any]:
    """Return the contract's `Run` object as the log has it at this moment.

    The row serves if it is as far as the log; else the run is folded. So it works with
    PostgreSQL down too. Raises `NotFoundError`, `DependencyUnavailableError`.
    """
    ref = run_ref(tenant_id, run_id)
    row, last = await asyncio.gather(_row(parts, tenant_id, run_id), parts.log.last(ref))
    if last is None:
        return await _not_here(parts, ref, row)
    if row is not None and row.position >= last.position:
        return await view_of(parts, tenant_id, row)
    return folded_run(ref.tenant_id, run_id, await parts.log.read(ref))


async def view_of(parts: Parts, tenant_id: str, row: RunView) -> dict[str, Any]:
    """Return the `Run` object of a row, its content opened where it is sealed."""
    return dict(await parts.opened(tenant_id, row.view()))


async def _not_here(parts: Parts, ref: StreamRef, row: RunView | None) -> dict[str, Any]:
    """Return a run of which this node's log has nothing: it was let go, or a peer executes it."""
    if row is not None and (purged := await purged_run(parts, ref)) is not None:
        return await view_of(parts, ref.tenant_id, purged)
    try:
        return await load_remote_run(parts, ref.tenant_id, ref.aggregate_id)
    except NotFoundError:
        if row is not None or (purged := await purged_run(parts, ref)) is None:
            raise
        return await view_of(parts, ref.tenant_id, purged)


async def purged_run(parts: Parts, ref: StreamRef) -> RunView | None:
    """Return the row of a run that the log has no more, `None` where retention let no such go.

    Raises `DependencyUnavailableError` when the row would have to say it and cannot be read: a
    run that was is never answered as one that never was.
    """
    last = await parts.log.last(retention_ref(ref.tenant_id))
    looks: tuple[tuple[Kind, Look], ...] = (
        ("runs", parts.reads.get_run),
        ("remote_runs", parts.reads.get_remote_run),
    )
    for kind, look in looks:
        gone = gone_of(last, kind)
        row = await look(ref.tenant_id, ref.aggregate_id) if gone.items else None
        if row is not None and row.position <= gone.position:
            return row
    return None


def events_gone(row: RunView) -> CursorExpiredError:
    """Return what a purged run's events are answered with."""
    return CursorExpiredError(
        "the events of this run are not kept any more",
        first_sequence=row.sequence + 1,
        status=row.view()["status"],
    )


async def load_remote_run(parts: Parts, tenant_id: str, run_id: str) -> dict[str, Any]:
    """Return a run that a peer executes for this tenant, as the copy has it; `NotFoundError`."""
    if parts.elsewhere is not None:
        await parts.elsewhere.settled(tenant_id, run_id)
    ref = remote_ref(tenant_id, run_id)
    return RemoteRun(ref).fold(await parts.log.read(ref)).view()


async def has_ended(parts: Parts, ref: StreamRef) -> bool:
    """Whether the run's last commit is its end: one question to the log, nothing folded.

    Raises `NotFoundError` when there is no such run.
    """
    last = await parts.log.last(ref)
    if last is None or last.is_void:
        raise NotFoundError("no such run")
    return last.types[-1] in FINAL_TYPES


def folded_run(tenant_id: str, run_id: str, records: list[Recorded]) -> dict[str, Any]:
    """Return the `Run` object that the records tell; `NotFoundError` for none or a void."""
    run = Run(run_ref(tenant_id, run_id)).fold(records)
    if run.status is None:
        raise NotFoundError("no such run")
    return run.view()


def is_final(view: dict[str, Any]) -> bool:
    """Whether a `Run` object has ended."""
    return view["status"] in FINAL


async def load_agent(parts: Parts, tenant_id: str, agent_id: str) -> dict[str, Any]:
    """Return the contract's `Agent` object, folded from the log: agents have few events."""
    ref = agent_ref(tenant_id, agent_id)
    return Agent(ref).fold(await parts.log.read(ref)).view()


async def _row(parts: Parts, tenant_id: str, run_id: str) -> RunView | None:
    """Return the row, or `None` when there is none, or no database that answers soon."""
    try:
        async with asyncio.timeout(ROW_S):
            return await parts.reads.get_run(tenant_id, run_id)
    except (TimeoutError, AgentOSError):
        return None
