"""What is asked about runs. Gateways read these tables through here only."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, LiteralString, NamedTuple, Protocol

from agentos.projections.cursor import Scope, decode_cursor, encode_cursor
from agentos.projections.queries import Pool, fetch
from agentos.projections.runs.row import READ_COLUMNS, RunRow, label_digest

GET: Final = f"SELECT {READ_COLUMNS} FROM agentos.runs r WHERE r.tenant_id = %s AND r.run_id = %s"  # noqa: S608 - constants only

# The table that has the order: `runs`, or `run_labels` when a label is asked for.
FROM_RUNS: Final = "agentos.runs r"
# LATERAL and OFFSET 0 hold the planner to one way: walk the label's rows in their order and
# look each run up, until the page is full. Left free it joined and sorted whole tenants.
FROM_LABELS: Final = (
    "agentos.run_labels l CROSS JOIN LATERAL (SELECT * FROM agentos.runs o "
    "WHERE o.tenant_id = l.tenant_id AND o.run_id = l.run_id OFFSET 0) r"
)
TENANT: Final = "{t}.tenant_id = %s"
LABEL: Final = "l.label = %s"
MORE_LABELS: Final = (
    "EXISTS (SELECT 1 FROM agentos.run_labels m WHERE m.tenant_id = l.tenant_id "
    "AND m.label = %s AND m.created_at = l.created_at AND m.run_id = l.run_id)"
)
STATUS: Final = "r.status = %s"
AGENT: Final = "r.agent_id = %s"
CREATED_AFTER: Final = "{t}.created_at > %s"
CREATED_BEFORE: Final = "{t}.created_at < %s"
BEHIND: Final = "({t}.created_at, {t}.run_id) < (%s::timestamptz, %s)"


@dataclass(frozen=True, slots=True)
class RunFilters:
    """Which runs a list holds. Times are epoch ms, exclusive; every label must be there."""

    status: str | None = None
    agent_id: str | None = None
    created_after: int | None = None
    created_before: int | None = None
    labels: tuple[tuple[str, str], ...] = ()

    def scope(self) -> Scope:
        """Return what a cursor is bound to besides the tenant."""
        labels = sorted(self.labels)
        return ["runs", self.status, self.agent_id, self.created_after, self.created_before, labels]


class ListedRun(Protocol):
    """A run in a list, wherever it is executed."""

    created_at: str
    run_id: str

    def view(self) -> dict[str, Any]:
        """Return the contract's `Run` object."""
        ...


class RunPage(NamedTuple):
    """A page of runs, newest first; `next_cursor` when there are more."""

    runs: Sequence[ListedRun]
    next_cursor: str | None


async def get_run(pool: Pool, tenant_id: str, run_id: str) -> RunRow | None:
    """Return a run as the read model has it, at its `position`, or `None`.

    Raises `DependencyUnavailableError`.
    """
    rows = await fetch(pool, GET, (tenant_id, run_id), prepare=True)
    return RunRow(*rows[0]) if rows else None


async def list_runs(
    pool: Pool,
    tenant_id: str,
    filters: RunFilters,
    limit: int,
    cursor: str | None = None,
) -> RunPage:
    """Return up to `limit` runs, newest first by (created_at, run_id), behind `cursor`.

    Raises `InvalidRequestError` for a cursor of another tenant or other filters,
    `DependencyUnavailableError`.
    """
    behind = None if cursor is None else decode_cursor(tenant_id, filters.scope(), cursor, 2)
    query, params = _list(tenant_id, filters, behind, limit + 1)
    # Planned with its values each time: a plan for any value at all may sort a whole tenant.
    found = await fetch(pool, query, params, prepare=False)
    rows = [RunRow(*values) for values in found[:limit]]
    if len(found) <= limit:
        return RunPage(rows, None)
    last = rows[-1]
    key = (last.created_at, last.run_id)
    return RunPage(rows, encode_cursor(tenant_id, filters.scope(), key))


def _list(
    tenant_id: str, filters: RunFilters, behind: Sequence[str] | None, limit: int
) -> tuple[LiteralString, list[Any]]:
    t: LiteralString = "l" if filters.labels else "r"
    labels = [label_digest(key, value) for key, value in sorted(filters.labels)]
    clauses: list[LiteralString] = [TENANT.format(t=t)]
    params: list[Any] = [tenant_id]

    def where(clause: LiteralString, *values: Any) -> None:
        clauses.append(clause.format(t=t))
        params.extend(values)

    for index, label in enumerate(labels):
        where(MORE_LABELS if index else LABEL, label)
    if filters.status is not None:
        where(STATUS, filters.status)
    if filters.agent_id is not None:
        where(AGENT, filters.agent_id)
    if filters.created_after is not None:
        where(CREATED_AFTER, _time(filters.created_after))
    if filters.created_before is not None:
        where(CREATED_BEFORE, _time(filters.created_before))
    if behind is not None:
        where(BEHIND, *behind)
    source = FROM_LABELS if labels else FROM_RUNS
    query = (
        f"SELECT {READ_COLUMNS} FROM {source} WHERE {' AND '.join(clauses)} "  # noqa: S608 - constants only
        f"ORDER BY {t}.created_at DESC, {t}.run_id DESC LIMIT %s"
    )
    return query, [*params, limit]


def _time(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)


SEALED: Final = """
SELECT count(*) FROM agentos.runs
WHERE tenant_id = %s
  AND (starts_with(output->>'sealed', %s) OR starts_with(error->>'sealed', %s))"""


async def count_sealed_runs(pool: Pool, tenant_id: str, key_id: str) -> int:
    """Return how many rows hold content that is sealed with a key."""
    ((found,),) = await fetch(pool, SEALED, (tenant_id, f"{key_id}/", f"{key_id}/"))
    return int(found)
