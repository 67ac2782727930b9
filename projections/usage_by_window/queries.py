"""What is asked about usage. Gateways read this table through here only."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal, LiteralString, NamedTuple

from agentos.projections.cursor import Scope, decode_cursor, encode_cursor
from agentos.projections.queries import Pool, fetch

Window = Literal["hour", "day", "month"]
Dimension = Literal["model", "agent_id", "principal_id"]
DIMENSIONS: Final[tuple[Dimension, ...]] = ("model", "agent_id", "principal_id")

# Calls of models, and beside them the runs: those have an agent, but no one model or principal.
OF_MODELS: Final = (
    "SELECT hour AS at, model, agent_id, principal_id, calls, errors, blocked, refused, "
    "interrupted, input_tokens, output_tokens, micro_usd, 0 AS runs, 0 AS tool_calls "
    "FROM agentos.usage_by_window WHERE tenant_id = %s AND hour >= %s AND hour < %s"
)
OF_RUNS: Final = (
    " UNION ALL SELECT created_at, '', agent_id, '', 0, 0, 0, 0, 0, 0, 0, 0, 1, tool_calls_total "
    "FROM agentos.runs WHERE tenant_id = %s AND created_at >= %s AND created_at < %s"
)
TRUNCATED: Final[dict[Window, LiteralString]] = {
    "hour": "date_trunc('hour', at, 'UTC')",
    "day": "date_trunc('day', at, 'UTC')",
    "month": "date_trunc('month', at, 'UTC')",
}
SUMS: Final = (
    "coalesce(sum(runs), 0)::bigint, coalesce(sum(tool_calls), 0)::bigint, "
    "coalesce(sum(calls), 0)::bigint, coalesce(sum(errors), 0)::bigint, "
    "coalesce(sum(blocked), 0)::bigint, coalesce(sum(refused), 0)::bigint, "
    "coalesce(sum(interrupted), 0)::bigint, coalesce(sum(input_tokens), 0)::bigint, "
    "coalesce(sum(output_tokens), 0)::bigint, coalesce(sum(micro_usd), 0)::bigint"
)


@dataclass(frozen=True, slots=True)
class UsageFilters:
    """Which usage, added up how. Times are epoch ms, `until` exclusive."""

    window: Window
    since: int
    until: int
    model: str | None = None
    agent_id: str | None = None
    principal_id: str | None = None
    group_by: tuple[Dimension, ...] = ("model", "agent_id")

    def scope(self) -> Scope:
        """Return what a cursor is bound to besides the tenant."""
        chosen = [self.model, self.agent_id, self.principal_id, ",".join(self.group_by)]
        return ["usage", self.window, self.since, self.until, *chosen]


class UsageRow(NamedTuple):
    """What was used in one window; `start` is its beginning (epoch ms), '' is no such thing."""

    start: int
    model: str
    agent_id: str
    principal_id: str
    runs: int
    tool_calls: int
    calls: int
    errors: int
    blocked: int
    refused: int
    interrupted: int
    input_tokens: int
    output_tokens: int
    micro_usd: int


class UsagePage(NamedTuple):
    """A page of usage, the newest window first; `next_cursor` when there is more."""

    rows: list[UsageRow]
    next_cursor: str | None


async def get_usage(
    pool: Pool, tenant_id: str, filters: UsageFilters, limit: int, cursor: str | None = None
) -> UsagePage:
    """Return up to `limit` rows behind `cursor`; it may lag by a second.

    Raises `InvalidRequestError` for a cursor of another tenant or other filters,
    `DependencyUnavailableError`.
    """
    behind = None if cursor is None else decode_cursor(tenant_id, filters.scope(), cursor, 4)
    query, params = _query(tenant_id, filters, behind, limit + 1)
    found = await fetch(pool, query, params, prepare=False)
    rows = [UsageRow(_ms(values[0]), *values[1:]) for values in found[:limit]]
    if len(found) <= limit:
        return UsagePage(rows, None)
    last = rows[-1]
    key = (_time(last.start).isoformat(), last.model, last.agent_id, last.principal_id)
    return UsagePage(rows, encode_cursor(tenant_id, filters.scope(), key))


def _query(
    tenant_id: str, filters: UsageFilters, behind: list[str] | None, limit: int
) -> tuple[LiteralString, list[Any]]:
    within = [tenant_id, _time(filters.since), _time(filters.until)]
    source: LiteralString = OF_MODELS
    params: list[Any] = [*within]
    if filters.model is None and filters.principal_id is None:
        source += OF_RUNS
        params += within
    clauses: list[LiteralString] = ["TRUE"]
    if filters.model is not None:
        clauses.append("model = %s")
        params.append(filters.model)
    if filters.agent_id is not None:
        clauses.append("agent_id = %s")
        params.append(filters.agent_id)
    if filters.principal_id is not None:
        clauses.append("principal_id = %s")
        params.append(filters.principal_id)
    model: LiteralString = "model" if "model" in filters.group_by else "''::text"
    agent: LiteralString = "agent_id" if "agent_id" in filters.group_by else "''::text"
    principal: LiteralString = "principal_id" if "principal_id" in filters.group_by else "''::text"
    window = TRUNCATED[filters.window]
    having: LiteralString = ""
    if behind is not None:
        having = (
            f" HAVING ({window}, {model}, {agent}, {principal}) < (%s::timestamptz, %s, %s, %s)"
        )
        params += behind
    query: LiteralString = (
        f"SELECT {window}, {model}, {agent}, {principal}, {SUMS} FROM ({source}) AS used "  # noqa: S608 - constants only
        f"WHERE {' AND '.join(clauses)} GROUP BY 1, 2, 3, 4{having} "
        "ORDER BY 1 DESC, 2 DESC, 3 DESC, 4 DESC LIMIT %s"
    )
    return query, [*params, limit]


def _time(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)


def _ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)
