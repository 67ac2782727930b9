"""Answers that are sent as a whole: the same bytes on the connection as by the long way."""

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from agentos.gateways.http.answers import Answer
from agentos.gateways.http.call import SCOPE_KEY, begin_call
from agentos.gateways.http.connection import CYCLE_KEY
from agentos.gateways.http.server import listen, make_server
from agentos.infra.clock import SystemIds

GET = b"GET /%b HTTP/1.1\r\nHost: x\r\n\r\n"
LARGE = 8 * 1024 * 1024
new_id = SystemIds()


class Door:
    """Answers every path with itself; `/large` with megabytes, `/bad` with a broken header."""

    def __init__(self) -> None:
        self.failures: list[BaseException] = []
        self.large = 0
        self.seen: list[weakref.ref[object]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[SCOPE_KEY] = begin_call(scope["headers"], new_id)
        name = scope["path"][1:]
        headers = {"X-Name": "one\r\nX-Other: two"} if name == "bad" else {"X-Name": name}
        self.large += name == "large"
        self.seen.append(scope[CYCLE_KEY])
        body = b"x" * LARGE if name == "large" else name.encode()
        try:
            if name == "read":
                await receive()
            for _ in range(2 if name == "twice" else 1):
                await Answer(body, 204 if name == "empty" else 200, headers)(scope, receive, send)
        except BaseException as error:
            self.failures.append(error)
            raise


@asynccontextmanager
async def served() -> AsyncIterator[tuple[Door, int]]:
    door, held = Door(), listen("127.0.0.1", 0)
    server: uvicorn.Server = make_server(door)
    serving = asyncio.create_task(server.serve(sockets=[held]))
    try:
        yield door, held.getsockname()[1]
    finally:
        server.should_exit = True
        await serving


async def said(port: int, *parts: bytes) -> bytes:
    """Send the parts at once, and return all that comes until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(b"".join(parts))
        async with asyncio.timeout(20):
            return await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()


def last(request: bytes) -> bytes:
    """Return the request as the last one of its connection."""
    return request.replace(b"Host: x\r\n", b"Host: x\r\nConnection: close\r\n")


async def test_an_answer_has_the_headers_of_every_answer() -> None:
    async with served() as (_, port):
        head, _, body = (await said(port, last(GET % b"a"))).partition(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    assert lines[0] == b"http/1.1 200 ok"
    names = [line.partition(b":")[0] for line in lines[1:]]
    assert sorted(names) == sorted(set(names))
    wanted = {b"date", b"x-name", b"content-type", b"content-length", b"x-request-id"}
    assert wanted | {b"x-correlation-id", b"connection"} == set(names)
    assert body == b"a"


async def test_requests_that_come_at_once_are_answered_in_their_order() -> None:
    names = [b"a", b"large", b"bb", b"empty", b"ccc"]
    async with served() as (_, port):
        came = await said(port, *(GET % name for name in names), last(GET % b"end"))
    assert bodies(came) == [b"a", b"x" * LARGE, b"bb", b"", b"ccc", b"end"]


async def test_what_waits_for_its_client_goes_first() -> None:
    """Megabytes stand in the connection's buffer while the next request is answered."""
    async with served() as (_, port):
        came = await said(port, GET % b"large", GET % b"large", last(GET % b"end"))
    assert bodies(came) == [b"x" * LARGE, b"x" * LARGE, b"end"]


async def test_nothing_is_made_for_a_client_that_does_not_read() -> None:
    async with served() as (door, port):
        _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        writer.write(GET % b"large" * 20)
        for _ in range(50):
            assert bodies(await said(port, last(GET % b"a"))) == [b"a"]
        assert door.large <= 2
        writer.transport.abort()


async def test_an_old_client_is_told_that_the_connection_closes() -> None:
    async with served() as (_, port):
        came = await said(port, b"GET /a HTTP/1.0\r\n\r\n")
    assert b"\r\nconnection: close\r\n" in came
    assert bodies(came) == [b"a"]


async def test_the_wish_for_a_body_goes_before_the_answer() -> None:
    async with served() as (_, port):
        ask = b"POST /read HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n"
        came = await said(port, ask + b"Connection: close\r\n\r\n{}")
    assert came.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 ")
    assert came.endswith(b"\r\n\r\nread")


async def test_a_second_answer_is_not_sent() -> None:
    async with served() as (door, port):
        came = await said(port, GET % b"twice")
    assert came.count(b"HTTP/1.1 ") == 1
    assert [type(error) for error in door.failures] == [RuntimeError]


async def test_a_request_is_gone_with_its_answer() -> None:
    """Its body is not kept until somebody looks for garbage."""
    async with served() as (door, port):
        gc.disable()
        try:
            came = await said(port, GET % b"a", GET % b"b", last(GET % b"c"))
        finally:
            gc.enable()
        assert bodies(came) == [b"a", b"b", b"c"]
        assert [seen() for seen in door.seen[:2]] == [None, None]


async def test_head_has_no_body() -> None:
    async with served() as (_, port):
        came = await said(port, last(b"HEAD /abc HTTP/1.1\r\nHost: x\r\n\r\n"))
    assert b"content-length: 3\r\n" in came
    assert came.endswith(b"\r\n\r\n")


async def test_a_header_cannot_become_two() -> None:
    async with served() as (door, port):
        came = await said(port, GET % b"bad")
    assert came.startswith(b"HTTP/1.1 500 ")
    assert b"X-Other" not in came
    assert [type(error) for error in door.failures] == [ValueError]


@pytest.mark.parametrize("rest", [b"", b"\r\nExpect: 100-continue"])
async def test_the_connection_serves_another_request(rest: bytes) -> None:
    async with served() as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for name in (b"a", b"b"):
            writer.write(b"GET /%b HTTP/1.1\r\nHost: x%b\r\n\r\n" % (name, rest))
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
            assert head.startswith(b"HTTP/1.1 200 ")
            assert await reader.readexactly(1) == name
        writer.close()
        await writer.wait_closed()


def bodies(came: bytes) -> list[bytes]:
    """Return the bodies of answers that came one behind the other."""
    return list(_bodies(came))


def _bodies(came: bytes) -> Iterable[bytes]:
    while came:
        head, _, came = came.partition(b"\r\n\r\n")
        lengths = [
            line.partition(b":")[2]
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"content-length:")
        ]
        size = int(lengths[0]) if lengths else 0
        yield came[:size]
        came = came[size:]
