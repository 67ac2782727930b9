"""Audit records of what has no event: denials in company, and what was only looked at.

What has an event is recorded by the auditor, from the log (`handlers/auditor`).
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

import structlog

from agentos.domain.audit.chain import NODE_TENANT, AuditChain, Entry, chain_ref
from agentos.domain.auth import SYSTEM_PRINCIPAL, AuthContext, Principal
from agentos.domain.envelope import NO_TRACE
from agentos.domain.errors import (
    AgentOSError,
    AppendConflictError,
    NotFoundError,
    TimedOutError,
)
from agentos.domain.ids import is_named_id
from agentos.domain.log import make_commit
from agentos.domain.tenant.access import require_platform
from agentos.domain.tenant.tenant import Tenant, tenant_ref
from agentos.handlers.commands import NoteDenials, NoteQuery
from agentos.handlers.parts import Parts

RACES: Final = 50
STOP_S: Final = 3.0
log = structlog.get_logger()


async def record(parts: Parts, tenant_id: str, entries: Sequence[Entry]) -> None:
    """Append `entries` to a tenant's chain, beside the auditor: what it has covered is kept.

    Raises `TimedOutError` when others append too fast, and what the log raises.
    """
    ref = chain_ref(tenant_id)
    for _ in range(RACES):
        last = await parts.log.last(ref)
        chain = AuditChain(ref).fold([last] if last else [])
        expected = chain.position
        events = chain.record(entries, parts.moment(SYSTEM_PRINCIPAL, NO_TRACE))
        try:
            commit = make_commit(ref, events, parts.new_id, base=chain.covered)
            await parts.log.append(commit, expected=expected)
        except AppendConflictError:
            continue
        return
    raise TimedOutError("the audit chain grows too fast; try again")


async def record_denials_for_ever(parts: Parts) -> None:
    """Record what is noted once a second until cancelled, and then what is left."""
    try:
        while True:
            await asyncio.sleep(1)
            await record_denials(parts)
    finally:
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_S):
                await record_denials(parts)


async def record_denials(parts: Parts) -> None:
    """Record what is noted; what cannot be recorded now is kept for the next time."""
    for tenant_id, entries in parts.denials.take().items():
        try:
            await record(parts, tenant_id, entries)
        except AgentOSError as error:
            log.warning("denials not recorded yet", tenant_id=tenant_id, error=str(error))
            parts.denials.put_back(tenant_id, entries)


async def note_denials(parts: Parts, auth: AuthContext, command: NoteDenials) -> dict[str, Any]:
    """Take in what a gateway counted; what has no tenant goes to the node's chain."""
    for denial in command.denials:
        known = denial.tenant_id is not None and is_named_id(denial.tenant_id, "tnt")
        entry = Entry(
            principal=Principal(
                principal_id=denial.principal_id or "anonymous",
                principal_type=denial.principal_type,
            ),
            action=denial.action,
            resource=denial.resource,
            outcome=denial.outcome,
            cause=parts.new_id("req"),
            correlation_id=denial.correlation_id,
            request_id=denial.request_id,
            reason=denial.reason or None,
            meta={**denial.meta, **({"source": denial.source} if denial.source else {})},
        )
        parts.denials.note(denial.tenant_id or "" if known else NODE_TENANT, entry, denial.count)
    return {}


async def note_query(parts: Parts, auth: AuthContext, command: NoteQuery) -> dict[str, Any]:
    """Record a look at another tenant in that tenant's chain; durable when answered.

    Raises `ForbiddenError` for who may not, `NotFoundError` for a tenant that never was.
    """
    require_platform(auth, "look at another tenant")
    if command.tenant_id != NODE_TENANT:
        tenant = await parts.directory.reload(Tenant, tenant_ref(command.tenant_id))
        if tenant.status is None:
            raise NotFoundError("no such tenant")
    entry = Entry(
        principal=auth.principal,
        action=command.action,
        resource=command.tenant_id,
        outcome="allowed",
        cause=command.request_id,
        correlation_id=command.correlation_id or "",
        request_id=command.request_id,
        meta={"by_tenant": auth.tenant_id, "filters": ",".join(command.filters)},
    )
    await record(parts, command.tenant_id, [entry])
    return {}
