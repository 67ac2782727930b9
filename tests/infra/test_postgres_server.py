"""The embedded PostgreSQL, for real."""

import asyncio
import stat
import time

import psycopg
import pytest

from agentos.infra.postgres_server import PostgresVersionError, configure_postgres
from tests.infra.embedded import EmbeddedPostgres


def test_it_serves_the_database_on_a_private_socket(postgres_server: EmbeddedPostgres) -> None:
    with psycopg.connect(postgres_server.dsn) as connection:
        row = connection.execute("SELECT current_database(), inet_server_addr()").fetchone()
    assert row == ("agentos", None)
    assert stat.S_IMODE(postgres_server.server.socket_dir.stat().st_mode) == 0o700


async def test_it_is_back_quickly_after_a_crash_with_a_query_in_hand(
    own_postgres_server: EmbeddedPostgres,
) -> None:
    with psycopg.connect(own_postgres_server.dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE kept (n int)")
        connection.execute("INSERT INTO kept VALUES (1)")
        connection.execute("CHECKPOINT")
    other = await psycopg.AsyncConnection.connect(own_postgres_server.dsn, autocommit=True)
    query = asyncio.create_task(other.execute("SELECT pg_sleep(60)"))
    await asyncio.sleep(0)
    started = time.monotonic()
    await asyncio.to_thread(own_postgres_server.restart)
    assert time.monotonic() - started < 5
    with pytest.raises(psycopg.OperationalError):
        await query
    await other.close()
    with psycopg.connect(own_postgres_server.dsn) as connection:
        assert connection.execute("SELECT n FROM kept").fetchone() == (1,)


def test_data_of_another_major_version_is_refused() -> None:
    server = EmbeddedPostgres()
    try:
        (server.server.data / "PG_VERSION").write_text("12\n")
        with pytest.raises(PostgresVersionError, match="was written by PostgreSQL 12"):
            configure_postgres(server.directory)
    finally:
        server.remove()
