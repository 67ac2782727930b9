"""Tenants, keys and usage as the log has them at this moment."""

import asyncio
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple, TypeVar

from agentos.domain.admission.admission import Admission, admission_ref
from agentos.domain.aggregate import Aggregate
from agentos.domain.auth import AuthContext
from agentos.domain.errors import InvalidRequestError, NotFoundError
from agentos.domain.ids import is_named_id
from agentos.domain.key.key import Key, key_ref
from agentos.domain.log import Recorded
from agentos.domain.ports import EventLog
from agentos.domain.tenant.access import is_platform_admin, require_reach
from agentos.domain.tenant.tenant import Tenant, TenantDeleted, tenant_ref
from agentos.domain.times import rfc3339
from agentos.gateways.http.errors import misfit
from agentos.gateways.http.keys import KeyUsage
from agentos.gateways.orchestrator.parts import Parts
from agentos.gateways.orchestrator.usage import model_figures
from agentos.projections.usage_by_window.queries import UsageFilters, UsageRow

A = TypeVar("A", bound=Aggregate)
AT_ONCE: Final = 16
DAY_MS: Final = 86_400_000
MOST_AGENTS: Final = 1000


class Page(NamedTuple):
    """Some objects in the order of their ids; `next_cursor` when there are more."""

    views: list[dict[str, Any]]
    next_cursor: str | None


async def load_tenant(log: EventLog, auth: AuthContext, tenant_id: str) -> Tenant:
    """Return a tenant that the caller reaches; `NotFoundError` for one that is not there."""
    require_reach(auth, tenant_id)
    ref = tenant_ref(tenant_id)
    tenant = Tenant(ref).fold(await log.read(ref))
    if tenant.status in (None, "deleted"):
        raise NotFoundError("no such tenant")
    return tenant


async def list_tenants(log: EventLog, auth: AuthContext, limit: int, cursor: str | None) -> Page:
    """Return the tenants that the caller reaches: all of them, or its own."""
    if not is_platform_admin(auth):
        return Page([(await load_tenant(log, auth, auth.tenant_id)).view()], None)
    there = [
        record
        for record in await log.last_of_kind(Tenant.KIND)
        if not record.is_void and record.types[-1] != TenantDeleted.TYPE
    ]
    return await _page(log, Tenant, there, limit, cursor)


async def list_keys(
    log: EventLog, auth: AuthContext, tenant_id: str, limit: int, cursor: str | None
) -> Page:
    """Return a tenant's keys, the revoked ones too; never a secret."""
    await load_tenant(log, auth, tenant_id)
    return await _page(log, Key, await log.last_of_kind(Key.KIND, tenant_id), limit, cursor)


async def add_last_used(page: Page, tenant_id: str, usage: KeyUsage | None) -> None:
    """Say of each key on the page when it was last used; it may lag by a minute."""
    if usage is None:
        return
    refs = {key_ref(tenant_id, view["key_id"]): view for view in page.views}
    for ref, at_ms in (await usage.last_used(list(refs))).items():
        refs[ref]["last_used_at"] = rfc3339(at_ms)


async def _page(
    log: EventLog, kind: type[A], lasts: Sequence[Recorded], limit: int, cursor: str | None
) -> Page:
    behind = "" if cursor is None else read_cursor(kind, cursor)
    ordered = sorted(
        (last for last in lasts if last.ref.aggregate_id > behind),
        key=lambda last: last.ref.aggregate_id,
    )
    some = ordered[:limit]
    room = asyncio.Semaphore(AT_ONCE)

    async def load(last: Recorded) -> dict[str, Any]:
        async with room:
            # One that never changed is whole in its only commit.
            records = [last] if last.first_sequence == 1 else await log.read(last.ref)
        view: dict[str, Any] = kind(last.ref).fold(records).view()  # type: ignore[attr-defined]
        return view

    views = await asyncio.gather(*(load(last) for last in some))
    more = len(ordered) > limit
    return Page(views, cursor_behind(kind, some[-1].ref.aggregate_id) if more else None)


def cursor_behind(kind: type[Aggregate], last_id: str) -> str:
    """Return the cursor of the page behind an object."""
    return urlsafe_b64encode(f"{kind.KIND}:{last_id}".encode()).decode().rstrip("=")


def read_cursor(kind: type[Aggregate], cursor: str) -> str:
    """Return the id of the object that a page begins behind."""
    try:
        text = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
    except (Base64Error, ValueError) as exc:
        raise _no_cursor() from exc
    name, _, last_id = text.partition(":")
    if name != kind.KIND or not is_named_id(last_id):
        raise _no_cursor()
    return last_id


def _no_cursor() -> InvalidRequestError:
    return misfit(["query", "cursor"], "not a cursor of this list")


async def usage_of(parts: Parts, tenant: Tenant, now_ms: int) -> list[dict[str, Any]]:
    """Return what a tenant has used since midnight (UTC): its own row, then one an agent.

    Runs in hand are exact, from the log; counts are the read model's and may lag a second.
    """
    tenant_id = tenant.ref.tenant_id
    start = now_ms - now_ms % DAY_MS
    window = {"window": "day", "from": rfc3339(start), "to": rfc3339(start + DAY_MS)}
    filters = UsageFilters("day", start, start + DAY_MS, group_by=())
    by_agent = replace(filters, group_by=("agent_id",))
    active, used, agents = await asyncio.gather(
        _active_runs(parts.log, tenant_id),
        parts.reads.get_usage(tenant_id, filters, 1, None),
        parts.reads.get_usage(tenant_id, by_agent, MOST_AGENTS, None),
    )
    nothing = UsageRow(start, "", "", "", *(0,) * 10)
    whole: dict[str, Any] = {
        **window,
        **_used(used.rows[0] if used.rows else nothing),
        "runs_active": active,
    }
    if (limit := tenant.run_limits.max_concurrent_runs) is not None:
        whole["runs_limit"] = limit
    of_agents = sorted((row for row in agents.rows if row.agent_id), key=lambda r: r.agent_id)
    return [whole, *({**window, "agent_id": row.agent_id, **_used(row)} for row in of_agents)]


def _used(row: UsageRow) -> dict[str, Any]:
    return {"runs": row.runs, "tool_calls": row.tool_calls, **model_figures(row)}


async def _active_runs(log: EventLog, tenant_id: str) -> int:
    admission = Admission(admission_ref(tenant_id))
    last = await log.last(admission.ref)
    after = last.base - 1 if last is not None and last.base else 0
    admission.catch_up(await log.read(admission.ref, after=after))
    return len(admission.active)
