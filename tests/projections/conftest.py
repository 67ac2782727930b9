"""A database for each test, and a partition of the log on JetStream."""

import random
from collections.abc import AsyncIterator, Iterator
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from agentos.infra.jetstream.connection import Connection, bounded_close, connect
from agentos.infra.jetstream.log import JetStreamLog
from agentos.infra.jetstream.streams import ensure_log
from agentos.projections.queries import Pool, make_pool
from tests.infra.embedded import EmbeddedNats, EmbeddedPostgres


@pytest.fixture
def dsn(postgres_server: EmbeddedPostgres) -> Iterator[str]:
    """The connection string of an empty database of this test alone."""
    name = f"t_{uuid4().hex}"
    with psycopg.connect(postgres_server.dsn, autocommit=True) as conn:
        conn.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        yield make_conninfo(postgres_server.dsn, dbname=name)
        conn.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
async def pool(dsn: str) -> AsyncIterator[Pool]:
    """An open pool on that database."""
    pool = make_pool(dsn)
    await pool.open()
    yield pool
    await pool.close()


@pytest.fixture
async def nats(nats_server: EmbeddedNats) -> AsyncIterator[Connection]:
    """A connection to the broker."""
    connection = await connect(nats_server.url, "test")
    yield connection
    await bounded_close(connection)


@pytest.fixture
async def stream_log(nats: Connection) -> JetStreamLog:
    """An empty partition of the log on JetStream."""
    partition = random.randrange(1, 10**9)
    await ensure_log(nats, expect_log=False, partition=partition)
    return JetStreamLog(nats, partition)
