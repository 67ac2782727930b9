"""The edge where read models are queried: the pool, driver errors, and the positions."""

from collections.abc import Sequence
from typing import Any, Final, LiteralString, NamedTuple

import psycopg
from psycopg_pool import AsyncConnectionPool

from agentos.domain.errors import DependencyUnavailableError, InvalidRequestError

WAIT_S: Final = 2.0
STATEMENT_MS: Final = 5000
POSITIONS: Final = "SELECT name, position FROM agentos.projections ORDER BY name"

Row = tuple[Any, ...]
Pool = AsyncConnectionPool[psycopg.AsyncConnection[Row]]


class ProjectionPosition(NamedTuple):
    """Where a projection stands in the log."""

    name: str
    position: int

    def lag(self, head: int) -> int:
        """Return how far it is behind the log's last position."""
        return max(0, head - self.position)


def make_pool(dsn: str, *, max_size: int = 4, name: str = "agentos-query") -> Pool:
    """Return a pool for queries, not opened: `await pool.open()`, and `close()` at the end.

    Reads need no transaction, so each is one round trip; each ends within `STATEMENT_MS`.
    """
    return AsyncConnectionPool(
        dsn,
        min_size=1,
        max_size=max_size,
        open=False,
        timeout=WAIT_S,
        max_waiting=256,
        reconnect_timeout=1.0,
        kwargs={
            "autocommit": True,
            "connect_timeout": 2,
            "application_name": name,
            "options": f"-c timezone=UTC -c statement_timeout={STATEMENT_MS}",
        },
    )


async def fetch(
    pool: Pool, query: LiteralString, params: Sequence[Any], *, prepare: bool | None = None
) -> list[Row]:
    """Return the rows of a query; `DependencyUnavailableError` (`postgres`) when it cannot.

    `InvalidRequestError` for a value that PostgreSQL cannot hold, such as a text with NUL. A
    connection that died while it lay in the pool is replaced and the query asked again.
    """
    try:
        try:
            return await _fetch(pool, query, params, prepare)
        except ConnectionLostError:
            await pool.check()
            return await _fetch(pool, query, params, prepare)
    except psycopg.DataError as exc:
        raise InvalidRequestError("a value cannot be looked for", errors=[]) from exc
    except psycopg.Error as exc:
        raise DependencyUnavailableError(
            "the read model cannot be reached", dependency="postgres"
        ) from exc


async def positions(pool: Pool) -> list[ProjectionPosition]:
    """Return where every projection stands."""
    return [ProjectionPosition(*row) for row in await fetch(pool, POSITIONS, ())]


class ConnectionLostError(psycopg.OperationalError):
    """The connection broke under the query."""


async def _fetch(
    pool: Pool, query: LiteralString, params: Sequence[Any], prepare: bool | None
) -> list[Row]:
    async with pool.connection() as conn:
        try:
            cursor = await conn.execute(query, params, prepare=prepare)
            return await cursor.fetchall()
        except psycopg.OperationalError as exc:
            if conn.broken:
                raise ConnectionLostError(str(exc)) from exc
            raise
