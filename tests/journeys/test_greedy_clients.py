"""Clients that take a node's connections and memory, and give nothing: others do not notice."""

import asyncio
import contextlib
import json
import re
import resource
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

import psutil
import pytest

from tests.journeys.raw_http import WHO, RawConnection, get, post, raw_connection
from tests.journeys.real_node import Client, RealNode, real_node

pytestmark = [pytest.mark.slow, pytest.mark.timeout(150)]

MANY: Final = 10_000
SPARE: Final = 500
MIB: Final = 2**20
PAYLOAD: Final = 20_000
LARGE: Final = "\n".join(
    f'call tool.echo {{"text": "{letter * PAYLOAD}"}}' for letter in "abcdefghij"
)


@pytest.fixture(scope="module")
def node() -> Iterator[RealNode]:
    with real_node() as node:
        yield node


@pytest.fixture
async def client(node: RealNode) -> AsyncIterator[Client]:
    async with node.client() as client:
        yield client


def memory(node: RealNode) -> float:
    """Return the gateway's own memory in MiB."""
    pid = node.states()["gateway"][0]
    return float(psutil.Process(pid).memory_full_info().uss) / MIB


async def slowest_of(client: Client, calls: int = 20) -> float:
    """Return the seconds that the slowest of some whole runs takes, each with its stream."""
    slowest = 0.0
    for _ in range(calls):
        began = time.monotonic()
        events = await client.events(await client.start("hello"))
        assert events[-1]["type"] == "agentos.run.completed"
        slowest = max(slowest, time.monotonic() - began)
    return slowest


async def test_streams_that_are_never_read_hold_nobody_up(node: RealNode, client: Client) -> None:
    """Large events go by clients that read nothing: they are cut off, and can resume."""
    before = memory(node)
    async with contextlib.AsyncExitStack() as deaf:
        for _ in range(20):
            connection = await deaf.enter_async_context(raw_connection(node.ports["orchestrator"]))
            await connection.send(get("/v1/events?after=0-0"))
            # asyncio would read ahead by itself: the deaf do not even do that.
            connection.writer.transport.pause_reading()  # type: ignore[attr-defined]
        heard: set[str] = set()
        hearing = asyncio.create_task(hear(client, heard))
        runs = {await client.start(LARGE) for _ in range(40)}
        for run_id in runs:
            assert (await client.wait(run_id))["status"] == "completed"
        during = memory(node)
        async with asyncio.timeout(60):
            while not runs <= heard:
                assert not hearing.done(), hearing
                await asyncio.sleep(0.05)
        assert await slowest_of(client, 5) < 2
        hearing.cancel()
        await asyncio.gather(hearing, return_exceptions=True)
    print(json.dumps({"deaf streams": {"before_mib": before, "during_mib": during}}))
    # 20 streams of at most 1 MiB each and what the process's own reads hold; not 40 MB x 20.
    assert during - before < 150


async def hear(client: Client, heard: set[str]) -> None:
    """Note every run that a tenant's stream shows to its end; one that is cut off comes again.

    Five of these events are as much as a stream may owe its client, so on a busy machine this
    client is cut off too.
    """
    while True:
        async for name, data in client.frames("/v1/events?after=0-0&types=run.completed"):
            if name == "agentos.error":
                assert data["error"]["code"] == "slow_consumer", data
                break
            heard.add(data["event"]["run_id"])


async def test_a_deaf_client_of_one_run_is_cut_off_and_resumes(
    node: RealNode, client: Client
) -> None:
    run_id = await client.start(f"sleep 500\n{LARGE}\nsleep 500\nend")
    async with raw_connection(node.ports["orchestrator"]) as connection:
        await connection.send(get(f"/v1/runs/{run_id}/events"))
        connection.writer.transport.pause_reading()  # type: ignore[attr-defined]
        assert (await client.wait(run_id))["status"] == "completed"
        async with asyncio.timeout(60):  # the patience of a write (10 s) and the sweep behind it
            while await client.open_streams():  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.2)
        connection.writer.transport.resume_reading()  # type: ignore[attr-defined]
        # Cut off, unless the system's own buffers took all of it: then it came to its end.
        with contextlib.suppress(ConnectionError):
            await asyncio.wait_for(last_bytes(connection), 30)
    events = await client.events(run_id)
    assert [e["sequence"] for e in events] == list(range(1, len(events) + 1))
    assert events[-1]["payload"]["summary"]["tool_calls_total"] == LARGE.count("call ")


async def test_heads_and_bodies_that_never_end_hold_nobody_up(
    node: RealNode, client: Client
) -> None:
    async with contextlib.AsyncExitStack() as open_ones:
        slow: list[RawConnection] = []
        for i in range(300):
            opened = await open_ones.enter_async_context(raw_connection(node.ports["orchestrator"]))
            if i % 3 == 0:
                await opened.send(b"GET /v1/runs HTTP/1.1\r\n" + WHO)
            elif i % 3 == 1:
                head = post("/v1/agents/agt_demo/runs", b"")
                await opened.send(head.replace(b"Content-Length: 0", b"Content-Length: 500"))
            slow.append(opened)  # every third says nothing at all
        for _ in range(5):
            for i, connection in enumerate(slow):
                if i % 3 < 2:
                    await connection.send(b"X" if i % 3 else b"X-Slow: 1\r\n")
            assert await slowest_of(client, 3) < 2
        assert await client.is_ready()


@pytest.fixture
def many_files() -> Iterator[int]:
    """Let this process open as many files as it may; returns how many connections that is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield min(MANY, hard - SPARE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_ten_thousand_connections(node: RealNode, client: Client, many_files: int) -> None:
    """A tenth follows one run, the others idle: each stream ends well, and others are served."""
    before = memory(node)
    run_id = await client.start("sleep 60000", "agt_demo")
    connections: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    port = node.ports["orchestrator"]
    try:
        for _ in range(many_files // 100):
            opening = (asyncio.open_connection("127.0.0.1", port) for _ in range(100))
            connections += await asyncio.wait_for(asyncio.gather(*opening), 20)
        streams = [RawConnection(*pair) for pair in connections[::10]]
        for stream in streams:
            await stream.send(get(f"/v1/runs/{run_id}/events"))
        slowest = await slowest_of(client)
        during = memory(node)
        status, answer = await client.cancel(run_id)
        assert (status, answer["run"]["status"]) == (200, "canceled")
        ends = await asyncio.wait_for(asyncio.gather(*(last_bytes(s) for s in streams)), 30)
        assert all(b"agentos.run.canceled" in end for end in ends)
    finally:
        for _, writer in connections:
            writer.transport.abort()
    print(json.dumps({"many": {"n": many_files, "mib": [before, during], "slowest_s": slowest}}))
    assert slowest < 3
    assert during - before < 500
    assert await slowest_of(client, 5) < 2


async def last_bytes(stream: RawConnection) -> bytes:
    """Return the end of what a stream showed."""
    data = b""
    while not data.endswith(b"0\r\n\r\n"):
        piece = await stream.reader.read(65536)
        if not piece:
            break
        data = data[-4096:] + piece
    return data


async def test_the_node_is_whole_after_all_that(node: RealNode) -> None:
    found: dict[str, Any] = node.status()
    assert found["state"] == "ready"
    assert [p["name"] for p in found["processes"] if p["restarts"]] == []
    levels = Counter(re.findall(r'"level": ?"(\w+)"', node.log_text()))
    assert levels["info"]  # the pattern fits what is written
    assert not levels["error"], levels
