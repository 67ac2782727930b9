"""What retention says of itself: how long what is kept, what is under way, what is gone."""

from typing import Any

from agentos.domain.ports import EventLog
from agentos.domain.retention.retention import (
    KIND,
    Archive,
    RetentionOf,
    RetentionPlanned,
    plans_in,
    retention_ref,
)
from agentos.domain.subjects import StreamRef


async def history(log: EventLog, tenant_id: str) -> tuple[RetentionOf, list[RetentionPlanned]]:
    """Return a tenant's retention and all its plans, the oldest first."""
    records = await log.read(retention_ref(tenant_id))
    return RetentionOf(retention_ref(tenant_id)).take(records), plans_in(records)


async def all_archives(log: EventLog) -> list[Archive]:
    """Return the archives of everything that went or is about to, of all tenants."""
    tenants = [record.ref.tenant_id for record in await log.last_of_kind(KIND)]
    plans = [plan for tenant in tenants for plan in (await history(log, tenant))[1]]
    return [plan.archive for plan in plans if plan.archive is not None]


async def plan_of(log: EventLog, ref: StreamRef) -> RetentionPlanned | None:
    """Return the plan by which a stream went, `None` if none did."""
    name = ref.aggregate_id.encode()
    records = await log.read(retention_ref(ref.tenant_id))
    for plan in plans_in([record for record in records if name in record.body]):
        if any((s.kind, s.id) == (ref.kind, ref.aggregate_id) for s in plan.streams):
            return plan
    return None


def shown(state: RetentionOf) -> dict[str, Any]:
    """Return how far a tenant's retention is."""
    plan = state.plan
    return {
        "tenant_id": state.ref.tenant_id,
        "phase": state.phase,
        "gone": {kind: gone.model_dump() for kind, gone in state.gone.items()},
        **({"plan": summary(plan)} if plan is not None else {}),
    }


def summary(plan: RetentionPlanned) -> dict[str, Any]:
    """Return what goes by a plan, without the list of streams."""
    return plan.model_dump(mode="json", exclude={"streams", "gone"}, exclude_none=True)
