"""What an administrator changed, in the audit chain of the tenant that it was changed in."""

from typing import Any

from agentos.domain.audit.chain import Entry, audit_id, chain_ref
from agentos.domain.auth import AuthContext
from agentos.handlers.audit import record
from agentos.handlers.commands import Command
from agentos.handlers.deciding import Decided
from agentos.handlers.parts import Parts


async def record_change(
    parts: Parts, auth: AuthContext, command: Command, action: str, decided: Decided[Any]
) -> None:
    """Record a change once: also when its command comes again because no answer arrived."""
    if not decided.events:
        return
    ref = decided.aggregate.ref
    entry = Entry(
        principal=auth.principal,
        action=action,
        resource=ref.aggregate_id,
        outcome="allowed",
        cause=decided.events[-1].event_id,
        correlation_id=command.correlation_id or "",
        meta={"by_tenant": auth.tenant_id},
    )
    if decided.is_repeat:
        behind = await parts.log.read(chain_ref(ref.tenant_id), after=decided.aggregate.position)
        if any(audit_id(entry).encode() in known.body for known in behind):
            return
    await record(parts, ref.tenant_id, [entry])
