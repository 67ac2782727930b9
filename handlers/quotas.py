"""The handlers of a ledger's commands: reserve and settle."""

from typing import Any

from agentos.domain.admission.budgets import budgets_of
from agentos.domain.admission.ledger import Ask, End, Part
from agentos.domain.auth import AuthContext
from agentos.handlers.commands import ReserveQuota, SettleQuota
from agentos.handlers.parts import Parts


async def reserve_quota(parts: Parts, auth: AuthContext, command: ReserveQuota) -> dict[str, Any]:
    """Hold amounts of a resource; durable when it answers.

    Returns `{granted: {hold_id: {amounts, reserved_at, block?}}, refused: {hold_id: error},
    leased}`: what each ask holds, its block or exactly its amounts. `leased` says that others
    hold blocks of which parts might come back. A disabled tenant's runs drain: what they call
    is held as ever, and nobody else of that tenant comes past a door.
    """
    tenant = await parts.directory.known_tenant(auth.tenant_id)
    asks = [Ask(hold.hold_id, hold.amounts, hold.block) for hold in command.holds]
    desk = parts.ledgers.desk(auth.tenant_id, command.resource)
    taken = await desk.take(asks, (), budgets_of(tenant, command.resource))
    for error in taken.refused.values():
        parts.metrics.quota_denied.labels(str(error.details.get("unit", error.code))).inc()
    return {
        "granted": {hold_id: hold.model_dump() for hold_id, hold in taken.holds.items()},
        "refused": {hold_id: error.to_wire() for hold_id, error in taken.refused.items()},
        "leased": taken.leased,
    }


async def settle_quota(parts: Parts, auth: AuthContext, command: SettleQuota) -> dict[str, Any]:
    """End holds at what they came to (nothing: released), and take parts of blocks back.

    Ended or given back twice, it counts once.
    """
    ends = [End(hold_id, amounts) for hold_id, amounts in command.amounts.items()]
    back = [Part(hold_id, amounts) for hold_id, amounts in command.parts.items()]
    await parts.ledgers.desk(auth.tenant_id, command.resource).take((), ends, (), back)
    return {}
