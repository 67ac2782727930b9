"""The tables of the read model, made idempotently, in the live schema or beside it."""

from collections.abc import Sequence
from importlib.resources import files
from typing import Final

from psycopg import AsyncConnection, sql

from agentos.projections.projector import Connection, Projector

LIVE: Final = "agentos"
REBUILD: Final = "agentos_rebuild"
MIGRATION_LOCK: Final = 0x61676F73_01
CONNECT_TIMEOUT_S: Final = 5


async def connect(dsn: str, schema: str, name: str) -> Connection:
    """Return a connection whose tables are those of `schema`.

    Its commits do not wait for the disk: rows and position are lost together or not at all,
    and the log has them. Raises `psycopg.OperationalError`.
    """
    options = (
        f"-c search_path={schema} -c synchronous_commit=off -c timezone=UTC "
        "-c statement_timeout=600000 -c lock_timeout=30000"
    )
    return await AsyncConnection.connect(
        dsn,
        autocommit=True,
        connect_timeout=CONNECT_TIMEOUT_S,
        options=options,
        application_name=name,
    )


async def create_tables(conn: Connection, schema: str, projectors: Sequence[Projector]) -> None:
    """Make what is missing: the schema, `projections`, the tables, each projection's place.

    Tables that are there are left as they are, whatever their version.
    """
    async with conn.transaction():
        # Two processes that both create "if not exists" can still collide.
        await conn.execute("SELECT pg_advisory_xact_lock(%s)", (MIGRATION_LOCK,))
        await conn.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(schema)))
        await conn.execute(_script("agentos.projections"))
        for projector in projectors:
            cursor = await conn.execute(
                "INSERT INTO projections (name, position, version) VALUES (%s, 0, %s) "
                "ON CONFLICT (name) DO NOTHING",
                (projector.name, projector.version),
            )
            if cursor.rowcount:
                await conn.execute(_script(f"agentos.projections.{projector.name}"))


def _script(package: str) -> bytes:
    return files(package).joinpath("tables.sql").read_bytes()
