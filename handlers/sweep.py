"""The sweep: every second, what the log says is unfinished and nobody works on is taken up."""

import asyncio
from typing import Final

import structlog

from agentos.domain.admission.admission import Admission, admission_ref
from agentos.domain.admission.events import QuotaBalanced, QuotaReleased, QuotaReserved
from agentos.domain.aggregate import FoldError, read_events
from agentos.domain.auth import SYSTEM_PRINCIPAL
from agentos.domain.envelope import NO_TRACE
from agentos.domain.errors import AgentOSError, AppendConflictError, NotFoundError
from agentos.domain.log import Recorded, void_commit
from agentos.domain.run.events import FINAL_TYPES
from agentos.domain.run.run import Run, run_ref
from agentos.domain.subjects import StreamRef, cancel_notice
from agentos.handlers.admission import Desk
from agentos.handlers.approvals import expire_overdue
from agentos.handlers.closed_tenants import cancel_runs_of_closed, load_closed
from agentos.handlers.parts import Parts
from agentos.handlers.runs import decide_on_run
from agentos.handlers.tolerant import tolerant
from agentos.handlers.watch import LiveRun

EVERY_S: Final = 1.0
ORPHAN_MS: Final = 5_000
log = structlog.get_logger()


async def load_unfinished(parts: Parts) -> int:
    """Take in every run that the log says is not final; returns how many there are.

    Each of them holds a reservation, so the tenants' admissions are the index.
    """
    now = asyncio.get_running_loop().time()
    for last in await parts.log.last_of_kind(Admission.KIND):
        if last.ref != admission_ref(last.ref.tenant_id) or not _holds_slots(last):
            continue
        desk = parts.desks.desk(last.ref.tenant_id)
        await desk.load()
        refs = [run_ref(last.ref.tenant_id, run_id) for run_id in desk.admission.active]
        found = await parts.log.last_many(refs)
        for record in found.values():
            parts.watch.see(record, now - EVERY_S)
    await load_closed(parts)
    return len(parts.watch.runs)


def _holds_slots(last: Recorded) -> bool:
    """Whether an admission holds slots after its last commit: most tenants hold none."""
    said = read_events(last, Admission.PAYLOADS)[-1].payload
    if isinstance(said, QuotaBalanced):
        return bool(said.run_ids)
    return not isinstance(said, QuotaReleased | QuotaReserved) or said.active != 0


async def sweep_for_ever(parts: Parts) -> None:
    """Sweep once a second until cancelled; a dependency that is down is tried again."""
    while True:
        try:
            await sweep(parts)
        except (AgentOSError, TimeoutError, FoldError) as error:
            log.warning("sweep failed", error=str(error))
        await parts.dispatcher.executor_lost(EVERY_S)


async def sweep(parts: Parts) -> None:
    """Offer lost runs again, see waits and cancels through, free reservations without a run."""
    await cancel_runs_of_closed(parts)
    await expire_overdue(parts)
    for live in await parts.dispatcher.sweep():
        with tolerant(parts, live.ref):
            await _see_cancel_through(parts, live)
    for desk in parts.desks.loaded():
        with tolerant(parts, desk.admission.ref):
            await _free_orphans(parts, desk)
    await parts.ledgers.expire()


async def _see_cancel_through(parts: Parts, live: LiveRun) -> None:
    if not parts.dispatcher.is_abandoned(live):
        await parts.signals.publish(cancel_notice(live.ref.aggregate_id), b"")
        return
    at = parts.moment(SYSTEM_PRINCIPAL, NO_TRACE)

    async def decide(run: Run, records: list[Recorded]) -> None:
        if run.cancel is not None and not run.is_final:
            run.finish_cancel(at)

    try:
        await decide_on_run(parts, live.ref, decide)
    except NotFoundError:
        parts.watch.runs.pop(live.ref, None)


async def _free_orphans(parts: Parts, desk: Desk) -> None:
    tenant = desk.admission.ref.tenant_id
    old = parts.clock.now_ms() - ORPHAN_MS
    active = desk.admission.active
    unseen = active.keys() - parts.watch.run_ids.get(tenant, frozenset())
    refs = [run_ref(tenant, run_id) for run_id in unseen if active[run_id] < old]
    if not refs:
        return
    found = await parts.log.last_many(refs)
    for ref in refs:
        if (record := found.get(ref)) is not None:
            if record.is_void or record.types[-1] in FINAL_TYPES:
                desk.free(ref.aggregate_id)  # else the tail is about to show it
        elif await _close(parts, ref):
            desk.free(ref.aggregate_id)


async def _close(parts: Parts, ref: StreamRef) -> bool:
    """Close an unused subject, so that a late `run.created` loses and its caller is told."""
    try:
        await parts.log.append(void_commit(ref, parts.new_id), expected=0)
    except AppendConflictError:
        return False
    return True
