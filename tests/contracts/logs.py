"""What the tests of log and queue share: logs to test, commits to write, ways to read."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import count

from agentos.domain.log import Commit, Recorded, TailBatch
from agentos.domain.subjects import StreamRef, stream_name
from agentos.infra.clock import SystemIds
from agentos.infra.jetstream import api
from agentos.infra.jetstream.connection import Connection, bounded_close, connect
from agentos.infra.jetstream.log import JetStreamLog
from agentos.infra.jetstream.streams import ensure_log

new_id = SystemIds()
partitions = count(1)


def run(name: str, tenant: str = "tnt_a") -> StreamRef:
    """Return a run's stream."""
    return StreamRef(tenant, "run", f"run_{name}")


def commit(ref: StreamRef, first: int = 1, *types: str, body: bytes = b"") -> Commit:
    """Return a new commit with one line a type."""
    names = types or ("agentos.test.happened",)
    lines = b"\n".join(body or b'{"event":{"n":%d}}' % (first + i) for i in range(len(names)))
    return Commit(ref, new_id("cmt"), first, names, lines)


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Connection]:
    """Return a connection for the length of a block."""
    connection = await connect(url, "test")
    try:
        yield connection
    finally:
        await bounded_close(connection)


@asynccontextmanager
async def jetstream_log(url: str) -> AsyncIterator[JetStreamLog]:
    """Return an empty log: a partition of its own, removed afterwards."""
    partition = next(partitions)
    async with connected(url) as connection:
        await ensure_log(connection, expect_log=False, partition=partition)
        yield JetStreamLog(connection, partition)
        await connection.wait_up(10)
        await api.call(connection, f"STREAM.DELETE.{stream_name(partition)}", timeout=10)


async def collect(tail: AsyncIterator[TailBatch], number: int) -> list[Recorded]:
    """Return the next records of a tail, at least `number` of them."""
    records: list[Recorded] = []
    while len(records) < number:
        records += (await anext(tail)).records
    return records


async def past(tail: AsyncIterator[TailBatch]) -> list[Recorded]:
    """Return what a tail reads until it caught up, and close it."""
    records: list[Recorded] = []
    while True:
        batch = await anext(tail)
        records += batch.records
        if batch.caught_up:
            await close(tail)
            return records


async def close(tail: AsyncIterator[TailBatch]) -> None:
    """Close a tail."""
    await tail.aclose()  # type: ignore[attr-defined]  # every adapter's is a generator


async def until(holds: Callable[[], Awaitable[bool]], within: float = 10.0) -> None:
    """Poll until `holds()` is true; fail when the time is up."""
    async with asyncio.timeout(within):
        while not await holds():  # noqa: ASYNC110  # another process changes it
            await asyncio.sleep(0.01)
