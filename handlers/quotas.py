"""The handlers of a ledger's commands: reserve and settle."""

from typing import Any

from agentos.domain.admission.ledger import Ask, End
from agentos.domain.auth import AuthContext
from agentos.handlers.commands import ReserveQuota, SettleQuota
from agentos.handlers.ledgers import budgets_of
from agentos.handlers.parts import Parts


async def reserve_quota(parts: Parts, auth: AuthContext, command: ReserveQuota) -> dict[str, Any]:
    """Hold amounts of a resource; returns `{refused: {hold_id: error}}`, durable."""
    tenant = await parts.directory.active_tenant(auth.tenant_id)
    asks = [Ask(hold.hold_id, hold.amounts) for hold in command.holds]
    budgets = budgets_of(tenant.limits, command.resource)
    desk = parts.ledgers.desk(auth.tenant_id, command.resource)
    refused = await desk.take(asks, (), budgets)
    return {"refused": {hold_id: error.to_wire() for hold_id, error in refused.items()}}


async def settle_quota(parts: Parts, auth: AuthContext, command: SettleQuota) -> dict[str, Any]:
    """End holds at what they came to (nothing: released); ended twice, it counts once."""
    ends = [End(hold_id, amounts) for hold_id, amounts in command.amounts.items()]
    await parts.ledgers.desk(auth.tenant_id, command.resource).take((), ends, ())
    return {}
