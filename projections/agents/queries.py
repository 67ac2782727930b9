"""What is asked about agents. Gateways read this table through here only."""

from typing import Final, NamedTuple

from agentos.projections.agents.row import READ_COLUMNS, AgentRow
from agentos.projections.cursor import decode_cursor, encode_cursor
from agentos.projections.queries import Pool, fetch

GET: Final = (
    f"SELECT {READ_COLUMNS} FROM agentos.agents a WHERE a.tenant_id = %s AND a.agent_id = %s"  # noqa: S608 - constants only
)
LIST: Final = (
    f"SELECT {READ_COLUMNS} FROM agentos.agents a WHERE a.tenant_id = %s AND a.agent_id > %s "  # noqa: S608 - constants only
    "ORDER BY a.agent_id LIMIT %s"
)
SCOPE: Final = ("agents",)


class AgentPage(NamedTuple):
    """A page of agents, by id; `next_cursor` when there are more."""

    agents: list[AgentRow]
    next_cursor: str | None


async def get_agent(pool: Pool, tenant_id: str, agent_id: str) -> AgentRow | None:
    """Return an agent as the read model has it, at its `position`, or `None`.

    Raises `DependencyUnavailableError`.
    """
    rows = await fetch(pool, GET, (tenant_id, agent_id), prepare=True)
    return AgentRow(*rows[0]) if rows else None


async def list_agents(pool: Pool, tenant_id: str, limit: int, cursor: str | None) -> AgentPage:
    """Return up to `limit` agents in the order of their ids, behind `cursor`.

    Raises `InvalidRequestError` for a cursor of another tenant or list,
    `DependencyUnavailableError`.
    """
    behind = "" if cursor is None else decode_cursor(tenant_id, SCOPE, cursor, 1)[0]
    found = await fetch(pool, LIST, (tenant_id, behind, limit + 1))
    rows = [AgentRow(*values) for values in found[:limit]]
    more = len(found) > limit
    last = rows[-1].agent_id if more else ""
    return AgentPage(rows, encode_cursor(tenant_id, SCOPE, (last,)) if more else None)
