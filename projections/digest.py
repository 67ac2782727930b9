"""Digests of tables: equal for equal rows, whatever their order on disk."""

from collections.abc import Sequence
from typing import Final, LiteralString, NamedTuple

from psycopg import sql

from agentos.projections.projector import Connection

# A sum of 64-bit hashes: order does not matter, and one pass without a sort is enough.
DIGEST: Final = """
SELECT count(*), coalesce(sum(hashtextextended(t::text, 0)::numeric), 0)::text
FROM {schema}.{table} t"""


class TableDigest(NamedTuple):
    """A table's name, its number of rows, and what stands for their content."""

    table: str
    rows: int
    digest: str


async def digest_tables(
    conn: Connection, schema: str, tables: Sequence[LiteralString]
) -> list[TableDigest]:
    """Return the digests of the tables of a schema, as the connection's transaction sees them."""
    found = []
    for table in tables:
        names = {"schema": sql.Identifier(schema), "table": sql.Identifier(table)}
        cursor = await conn.execute(sql.SQL(DIGEST).format(**names))
        row = await cursor.fetchone()
        count, total = row or (0, "0")
        found.append(TableDigest(table, count, total))
    return found
