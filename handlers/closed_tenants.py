"""Policy: the runs of a tenant that was disabled with `runs=cancel`, or deleted, are canceled."""

import asyncio
from typing import Final

from agentos.domain.auth import SYSTEM_PRINCIPAL
from agentos.domain.envelope import NO_TRACE
from agentos.domain.errors import NotFoundError
from agentos.domain.log import Recorded
from agentos.domain.run.run import Run
from agentos.domain.subjects import StreamRef, cancel_notice
from agentos.domain.tenant.tenant import Tenant, TenantCreated, TenantEnabled, tenant_ref
from agentos.handlers.parts import Parts
from agentos.handlers.runs import decide_on_run

AT_ONCE: Final = 64
AT_MOST: Final = 1024
OPEN_TYPES: Final = frozenset({TenantCreated.TYPE, TenantEnabled.TYPE})
REASON: Final = "the tenant is disabled"


async def load_closed(parts: Parts) -> None:
    """Learn which tenants with live runs are not active; the watch tells it from then on."""
    tenants = {ref.tenant_id for ref in parts.watch.runs}
    lasts = await parts.log.last_many([tenant_ref(tenant_id) for tenant_id in tenants])
    for ref, last in lasts.items():
        if last.types[-1] in OPEN_TYPES:
            continue
        tenant = await parts.directory.reload(Tenant, ref)
        if tenant.status != "active":
            parts.watch.closed.add(ref.tenant_id)


async def cancel_runs_of_closed(parts: Parts) -> None:
    """Cancel what still runs for tenants that want it so; what a crash left too."""
    closed = parts.watch.closed
    if not closed:
        return
    for tenant_id in {ref.tenant_id for ref in parts.watch.runs if ref.tenant_id in closed}:
        await cancel_runs_of(parts, tenant_id)


async def cancel_runs_of(parts: Parts, tenant_id: str) -> None:
    """Cancel up to `AT_MOST` live runs of a tenant if its state asks for that; the sweep goes on.

    A run that an executor holds is asked to stop, and ends by its holder's hand.
    """
    tenant = await parts.directory.get(Tenant, tenant_ref(tenant_id))
    if not _wants_cancel(tenant):
        return
    live = parts.watch.runs.values()
    refs = [run.ref for run in live if run.ref.tenant_id == tenant_id and not run.cancel]
    for start in range(0, min(len(refs), AT_MOST), AT_ONCE):
        await asyncio.gather(*(_cancel(parts, ref) for ref in refs[start : start + AT_ONCE]))


def _wants_cancel(tenant: Tenant) -> bool:
    return tenant.status == "deleted" or (tenant.status == "disabled" and tenant.runs == "cancel")


async def _cancel(parts: Parts, ref: StreamRef) -> None:
    at = parts.moment(SYSTEM_PRINCIPAL, NO_TRACE)

    async def decide(run: Run, records: list[Recorded]) -> None:
        if run.is_final or run.cancel is not None:
            return
        run.request_cancel(SYSTEM_PRINCIPAL.principal_id, REASON, at)
        if not parts.dispatcher.has_live_holder(run):
            run.finish_cancel(at)

    try:
        run = await decide_on_run(parts, ref, decide)
    except NotFoundError:
        return  # a closed place: the tail is about to show it
    if not run.is_final:
        await parts.signals.publish(cancel_notice(ref.aggregate_id), b"")
