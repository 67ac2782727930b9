"""What is asked about forwards without a result. Gateways read this table through here only."""

from typing import Final

from agentos.projections.queries import Pool, fetch

OPEN: Final = """
SELECT p.position, f.tenant_id, f.forward_id FROM agentos.projections p
LEFT JOIN agentos.open_forwards f ON true WHERE p.name = 'open_forwards'"""


async def open_forwards(pool: Pool) -> tuple[int, list[tuple[str, str]]]:
    """Return the log position of the table, and tenant and id of each forward in it.

    Raises `DependencyUnavailableError`.
    """
    rows = await fetch(pool, OPEN, ())
    position = rows[0][0] if rows else 0
    return position, [(tenant, name) for _, tenant, name in rows if name is not None]
