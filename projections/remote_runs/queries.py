"""What is asked about remote runs. Gateways read this table through here only."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, LiteralString

from pydantic_core import from_json

from agentos.projections.cursor import decode_cursor, encode_cursor
from agentos.projections.queries import Pool, fetch
from agentos.projections.remote_runs.row import READ_COLUMNS, RemoteRow
from agentos.projections.runs.queries import ListedRun, RunFilters, RunPage
from agentos.projections.runs.row import label_digest

BY_PEER: Final = """
SELECT stack_id, count(*), count(*) FILTER (WHERE NOT has_ended), coalesce(sum(copied), 0)::bigint
FROM agentos.remote_runs GROUP BY stack_id ORDER BY stack_id"""
OPEN: Final = """
SELECT p.position, r.tenant_id, r.run_id FROM agentos.projections p
LEFT JOIN agentos.remote_runs r ON NOT r.has_ended WHERE p.name = 'remote_runs'"""
GET: Final = (
    f"SELECT {READ_COLUMNS} FROM agentos.remote_runs r WHERE r.tenant_id = %s AND r.run_id = %s"  # noqa: S608 - constants only
)
NOTED: Final = """
SELECT stack_id, tenant_id, run_id, gaps::text, filled::text FROM agentos.remote_runs
WHERE gaps::text <> '[]' OR filled::text <> '[]' ORDER BY position DESC LIMIT 200"""


async def get_remote_run(pool: Pool, tenant_id: str, run_id: str) -> RemoteRow | None:
    """Return a remote run as the read model has it, or `None`; `DependencyUnavailableError`."""
    rows = await fetch(pool, GET, (tenant_id, run_id), prepare=True)
    return RemoteRow(*rows[0]) if rows else None


async def list_remote_runs(
    pool: Pool, tenant_id: str, filters: RunFilters, limit: int, cursor: str | None = None
) -> list[RemoteRow]:
    """Return up to `limit` remote runs, newest first, behind a cursor of `list_runs`.

    Raises `InvalidRequestError` for a cursor of another tenant or other filters,
    `DependencyUnavailableError`.
    """
    behind = None if cursor is None else decode_cursor(tenant_id, filters.scope(), cursor, 2)
    clauses: list[LiteralString] = ["r.tenant_id = %s"]
    params: list[Any] = [tenant_id]

    def where(clause: LiteralString, *values: Any) -> None:
        clauses.append(clause)
        params.extend(values)

    if filters.status is not None:
        where("r.status = %s", filters.status)
    if filters.agent_id is not None:
        where("r.agent_id = %s", filters.agent_id)
    if filters.created_after is not None:
        where("r.created_at > %s", _time(filters.created_after))
    if filters.created_before is not None:
        where("r.created_at < %s", _time(filters.created_before))
    if filters.labels:
        digests = [label_digest(key, value) for key, value in filters.labels]
        where("r.labels @> %s::uuid[]", digests)
    if behind is not None:
        where("(r.created_at, r.run_id) < (%s::timestamptz, %s)", *behind)
    query: LiteralString = (
        f"SELECT {READ_COLUMNS} FROM agentos.remote_runs r WHERE {' AND '.join(clauses)} "  # noqa: S608 - constants only
        "ORDER BY r.created_at DESC, r.run_id DESC LIMIT %s"
    )
    rows = await fetch(pool, query, (*params, limit), prepare=False)
    return [RemoteRow(*row) for row in rows]


def merged(
    page: RunPage, remote: Sequence[RemoteRow], tenant_id: str, filters: RunFilters, limit: int
) -> RunPage:
    """Return one page of a page of this node's runs and those at peers, in the same order."""
    both: list[ListedRun] = [*page.runs, *remote]
    both.sort(key=lambda run: (run.created_at, run.run_id), reverse=True)
    if len(both) <= limit and page.next_cursor is None:
        return RunPage(both, None)
    last = both[min(limit, len(both)) - 1]
    key = (last.created_at, last.run_id)
    return RunPage(both[:limit], encode_cursor(tenant_id, filters.scope(), key))


async def copies_by_peer(pool: Pool) -> Sequence[Mapping[str, Any]]:
    """Return for each stack its runs, open runs, copied events, and its latest gaps and fills.

    Raises `DependencyUnavailableError`.
    """
    found = {
        row[0]: {
            "stack_id": row[0],
            "runs": row[1],
            "open_runs": row[2],
            "events_copied": row[3],
            "gaps": [],
            "filled": [],
        }
        for row in await fetch(pool, BY_PEER, ())
    }
    for stack_id, tenant_id, run_id, gaps, filled in await fetch(pool, NOTED, ()):
        place = {"tenant_id": tenant_id, "run_id": run_id}
        found[stack_id]["gaps"] += [place | gap for gap in from_json(gaps)]
        found[stack_id]["filled"] += [place | note for note in from_json(filled)]
    return list(found.values())


async def open_copies(pool: Pool) -> tuple[int, list[tuple[str, str]]]:
    """Return the log position of the table, and tenant and run of each copy that is not whole.

    Raises `DependencyUnavailableError`.
    """
    rows = await fetch(pool, OPEN, ())
    position = rows[0][0] if rows else 0
    return position, [(tenant, run_id) for _, tenant, run_id in rows if run_id is not None]


def _time(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)


SEALED: Final = """
SELECT count(*) FROM agentos.remote_runs
WHERE tenant_id = %s
  AND (starts_with(view->'output'->>'sealed', %s) OR starts_with(view->'error'->>'sealed', %s))"""


async def count_sealed_remote_runs(pool: Pool, tenant_id: str, key_id: str) -> int:
    """Return how many rows hold content that is sealed with a key."""
    ((found,),) = await fetch(pool, SEALED, (tenant_id, f"{key_id}/", f"{key_id}/"))
    return int(found)
