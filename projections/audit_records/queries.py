"""What is asked about audit records. Gateways read this table through here only."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final, LiteralString, NamedTuple

from pydantic_core import from_json

from agentos.domain.errors import InvalidRequestError
from agentos.projections.cursor import Scope, decode_cursor, encode_cursor
from agentos.projections.queries import Pool, fetch

SELECT: Final = "SELECT position, line, record::text FROM agentos.audit_records WHERE "
CLAUSES: Final[dict[str, LiteralString]] = {
    "action": "action = %s",
    "principal_id": "principal_id = %s",
    "outcome": "outcome = %s",
    "run_id": "run_id = %s",
    "after": "time > %s",
    "before": "time < %s",
}


@dataclass(frozen=True, slots=True)
class AuditFilters:
    """Which records a list holds. Times are epoch ms, exclusive."""

    action: str | None = None
    principal_id: str | None = None
    outcome: str | None = None
    run_id: str | None = None
    after: int | None = None
    before: int | None = None

    def given(self) -> dict[str, str | int]:
        """Return the filters that are set, by their names."""
        found = {name: getattr(self, name) for name in CLAUSES}
        return {name: value for name, value in found.items() if value is not None}

    def scope(self) -> Scope:
        """Return what a cursor is bound to besides the tenant."""
        return ["audit", *(f"{name}={value}" for name, value in self.given().items())]


class AuditPage(NamedTuple):
    """A page of records, newest first; `next_cursor` when there are more."""

    records: list[dict[str, Any]]
    next_cursor: str | None


async def list_audit_records(
    pool: Pool, tenant_id: str, filters: AuditFilters, limit: int, cursor: str | None = None
) -> AuditPage:
    """Return up to `limit` records of a tenant's chain, newest first, behind `cursor`.

    Raises `InvalidRequestError` for a cursor of another tenant or other filters,
    `DependencyUnavailableError`.
    """
    clauses, params = _where(tenant_id, filters)
    if cursor is not None:
        clauses += " AND (position, line) < (%s, %s)"
        params += _behind(decode_cursor(tenant_id, filters.scope(), cursor, 2))
    query = f"{SELECT}{clauses} ORDER BY position DESC, line DESC LIMIT %s"
    found = await fetch(pool, query, [*params, limit + 1], prepare=False)
    records = [from_json(row[2]) for row in found[:limit]]
    if len(found) <= limit:
        return AuditPage(records, None)
    key = (str(found[limit - 1][0]), str(found[limit - 1][1]))
    return AuditPage(records, encode_cursor(tenant_id, filters.scope(), key))


async def find_audit_start(
    pool: Pool, tenant_id: str, filters: AuditFilters, since: int | None, last: int
) -> tuple[int, int]:
    """Return the place (position, line) behind which the records made `since` begin, or the `last`.

    With both it is the later one; (0, 0) is the beginning of the chain. The times of a chain
    never run backwards, so all behind the newest record before `since` is wanted.
    """
    earlier = replace(filters, before=since)
    of_time = await _newest(pool, tenant_id, earlier, 0) if since is not None else (0, 0)
    of_count = await _newest(pool, tenant_id, filters, last) if last else (0, 0)
    return max(of_time, of_count)


async def _newest(
    pool: Pool, tenant_id: str, filters: AuditFilters, passed: int
) -> tuple[int, int]:
    """Return the place of the newest record that fits, once `passed` newer ones are passed by.

    A place counts lines from 1, as the streams' cursors do; the rows count them from 0.
    """
    clauses, params = _where(tenant_id, filters)
    query = f"{SELECT}{clauses} ORDER BY position DESC, line DESC OFFSET %s LIMIT 1"
    found = await fetch(pool, query, [*params, passed], prepare=False)
    return (found[0][0], found[0][1] + 1) if found else (0, 0)


def _where(tenant_id: str, filters: AuditFilters) -> tuple[LiteralString, list[Any]]:
    clauses: list[LiteralString] = ["tenant_id = %s"]
    params: list[Any] = [tenant_id]
    for name, value in filters.given().items():
        clauses.append(CLAUSES[name])
        params.append(_time(value) if isinstance(value, int) else value)
    return " AND ".join(clauses), params


def _behind(key: list[str]) -> list[int]:
    try:
        return [int(part) for part in key]
    except ValueError as exc:
        raise InvalidRequestError("the cursor does not belong to this list", errors=[]) from exc


def _time(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)
