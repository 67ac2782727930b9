"""A request that does not come to its end costs nobody a connection for long."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from agentos.gateways.http.server import DoorProtocol
from tests.gateways.conftest import Door, bearer

HEALTH = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
BODY = b"POST /v1/agents/agt_x/runs HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{"


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DoorProtocol, "request_s", 0.3)


@pytest.mark.parametrize(
    "sent",
    [b"", b"GET /healthz HTTP/1.1\r\nX-Slow", HEALTH + b"GET /heal"],
    ids=["nothing", "half a head", "half a second request"],
)
async def test_what_never_ends_is_closed(door: Door, sent: bytes) -> None:
    async with connected(door) as (reader, writer):
        writer.write(sent)
        await ended(reader)


async def test_a_body_that_never_ends_is_closed(door: Door) -> None:
    async with connected(door) as (reader, writer):
        writer.write(BODY)
        await ended(reader)
    status, _, _ = await door.call("GET", "/healthz")
    assert status == 200


async def test_an_idle_connection_that_was_used_stays(door: Door) -> None:
    async with connected(door) as (reader, writer):
        for _ in range(2):
            writer.write(HEALTH)
            assert b" 200 " in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
            await asyncio.sleep(0.6)  # twice the patience with a request that has begun


async def test_the_answer_before_it_is_not_cut_off(door: Door) -> None:
    """Half a request behind one that is still answered waits its turn."""
    script = door.script()
    await script.stage_created().write()
    who = f"Authorization: {bearer()['Authorization']}\r\n".encode()
    wait = f"GET /v1/runs/{script.run_id}/wait?timeout_ms=1000 HTTP/1.1\r\nHost: x\r\n".encode()
    async with connected(door) as (reader, writer):
        writer.write(wait + who + b"\r\n" + b"GET /heal")
        assert b" 200 " in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)


@asynccontextmanager
async def connected(door: Door) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Give a connection, closed at the end however the door has left it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def ended(reader: asyncio.StreamReader) -> None:
    """Read until the door closes the connection; fail when it does not."""
    async with asyncio.timeout(5):
        with contextlib.suppress(ConnectionError):
            while await reader.read(65536):
                pass
