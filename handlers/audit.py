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
from agentos.domain.log import Commit, Recorded, make_commit
from agentos.domain.subjects import StreamRef
from agentos.domain.tenant.access import require_platform
from agentos.domain.tenant.tenant import Tenant, tenant_ref
from agentos.handlers.commands import NoteDenials, NoteQuery, OfTenant
from agentos.handlers.denials import Unclear
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
        commit, expected = _next(parts, last, ref, entries)
        try:
            await parts.log.append(commit, expected=expected)
        except AppendConflictError:
            continue
        return
    raise TimedOutError("the audit chain grows too fast; try again")


def _next(
    parts: Parts, last: Recorded | None, ref: StreamRef, entries: Sequence[Entry]
) -> tuple[Commit, int]:
    """Return the commit that appends entries behind a chain's last one, and what it expects."""
    chain = AuditChain(ref).fold([last] if last else [])
    expected = chain.position
    events = chain.record(entries, parts.moment(SYSTEM_PRINCIPAL, NO_TRACE))
    return make_commit(ref, events, parts.new_id, base=chain.covered), expected


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
    """Record what is noted, once; what cannot be recorded now is kept for the next time."""
    for tenant_id in list(parts.denials.unclear):
        await _settle(parts, tenant_id)
    taken = parts.denials.take()
    try:
        for tenant_id in list(taken):
            if tenant_id not in parts.denials.unclear:
                await _record_noted(parts, tenant_id, taken.pop(tenant_id))
    finally:
        for tenant_id, entries in taken.items():
            parts.denials.put_back(tenant_id, entries)


async def _settle(parts: Parts, tenant_id: str) -> None:
    """Send the very same bytes again: written then or now, or, where another was first, never."""
    unclear = parts.denials.unclear[tenant_id]
    try:
        await parts.log.append(unclear.commit, expected=unclear.expected)
    except AppendConflictError:
        parts.denials.put_back(tenant_id, unclear.entries)
    except AgentOSError as error:
        log.warning("denials not recorded yet", tenant_id=tenant_id, error=str(error))
        return
    del parts.denials.unclear[tenant_id]


async def _record_noted(parts: Parts, tenant_id: str, entries: list[Entry]) -> None:
    """Append entries; what is not known to be written or not is kept as `unclear`."""
    unclear: Unclear | None = None
    ref = chain_ref(tenant_id)
    try:
        for _ in range(RACES):
            last = await parts.log.last(ref)
            commit, expected = _next(parts, last, ref, entries)
            unclear = Unclear(commit, expected, entries)
            try:
                await parts.log.append(commit, expected=expected)
            except AppendConflictError:
                unclear = None
                continue
            return
        raise TimedOutError("the audit chain grows too fast; try again")
    except BaseException as error:
        if unclear is None:
            parts.denials.put_back(tenant_id, entries)
        else:
            parts.denials.unclear[tenant_id] = unclear
        if not isinstance(error, AgentOSError):
            raise
        log.warning("denials not recorded yet", tenant_id=tenant_id, error=str(error))


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


async def record_unchanged(parts: Parts, auth: AuthContext, command: OfTenant, action: str) -> None:
    """Record a command of another tenant's administrator that wrote no event, before it answers.

    It changed nothing, or was a trial; and yet it shows what is that tenant's.
    """
    if auth.tenant_id == command.tenant_id:
        return
    entry = Entry(
        principal=auth.principal,
        action=action,
        resource=command.tenant_id,
        outcome="allowed",
        cause=parts.new_id("req"),
        correlation_id=command.correlation_id or "",
        meta={"by_tenant": auth.tenant_id, "changed": False},
    )
    await record(parts, command.tenant_id, [entry])


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
