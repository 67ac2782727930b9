import asyncio
import base64
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult

from agentos.domain.errors import (
    AgentOSError,
    ForbiddenError,
    InvalidRequestError,
    TimedOutError,
    ToolFailedError,
)
from agentos.infra.tools.allowlist import Allowlist
from agentos.infra.tools.guarded_http import GuardedHttp
from agentos.infra.tools.http_fetch import http_fetch_tool
from agentos.infra.tools.registry import Tools
from tests.infra.tools.calls import call, caller


@dataclass
class Site:
    port: int = 0
    requests: list[web.Request] = field(default_factory=list)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)

    def url(self, path: str = "/", host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        self.asked.set()
        where = request.query
        if request.path == "/to":
            return web.Response(status=302, headers={"Location": where["url"]})
        if request.path == "/round":
            return web.Response(status=307, headers={"Location": "/round"})
        if request.path == "/bytes":
            body = where["byte"].encode("latin-1") * int(where["count"])
            return web.Response(body=body, headers={"Content-Type": where["type"]})
        if request.path == "/hang":
            try:
                await asyncio.sleep(60)
            finally:
                self.left.set()
        return web.Response(text="héllo", status=int(where.get("status", "200")))


@asynccontextmanager
async def site() -> AsyncIterator[Site]:
    made = Site()
    app = web.Application()
    app.router.add_get("/{path:.*}", made.handle)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.port = runner.addresses[0][1]
    try:
        yield made
    finally:
        await runner.cleanup()


class Names(AbstractResolver):
    """Gives each name its addresses, one after another; the last one stays."""

    def __init__(self, addresses: Mapping[str, Sequence[str]]) -> None:
        self.left = {name: list(found) for name, found in addresses.items()}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        if host not in self.left:
            raise OSError("no such name")
        found = self.left[host]
        address = found.pop(0) if len(found) > 1 else found[0]
        return [
            ResolveResult(
                hostname=host, host=address, port=port, family=socket.AF_INET, proto=0, flags=0
            )
        ]

    async def close(self) -> None:
        pass


def tools(
    *patterns: str, allow_private: bool = True, names: Mapping[str, Sequence[str]] | None = None
) -> Tools:
    http = GuardedHttp(allow_private=allow_private)
    if names is not None:
        resolver = Names(names)
        http = GuardedHttp(allow_private=allow_private, resolver=lambda: resolver)
    return Tools([http_fetch_tool(Allowlist(patterns or ("127.0.0.1:*",)), http)])


async def fetch(registry: Tools, url: str, **arguments: Any) -> Any:
    return await registry.call(caller(), call("tool.http.fetch", url=url, **arguments))


async def refusal(registry: Tools, url: str, **arguments: Any) -> AgentOSError:
    with pytest.raises(AgentOSError) as caught:
        await fetch(registry, url, **arguments)
    return caught.value


async def test_a_page_is_read() -> None:
    async with site() as server:
        output = await fetch(tools(), server.url("/a?b=1#c"), headers={"X-Mine": "1"})
    assert output["status"] == 200
    assert output["url"] == server.url("/a?b=1")
    assert output["body"] == "héllo"
    assert output["truncated"] is False
    assert output["headers"]["Content-Type".lower()] == "text/plain; charset=utf-8"
    assert server.requests[0].headers["X-Mine"] == "1"


async def test_any_status_is_an_output_and_head_has_no_body() -> None:
    async with site() as server:
        assert (await fetch(tools(), server.url("/?status=500")))["status"] == 500
        head = await fetch(tools(), server.url("/"), method="HEAD")
    assert (head["status"], head["body"]) == (200, "")


@pytest.mark.parametrize("url", ["http://example.org/", "http://127.0.0.1/", "http://localhost:1/"])
async def test_a_host_that_is_not_listed_is_refused(url: str) -> None:
    error = await refusal(tools("127.0.0.1:81"), url)
    assert isinstance(error, ForbiddenError)
    assert error.details["reason"] == "allowlist"


@pytest.mark.parametrize(
    "url",
    [
        "ftp://127.0.0.1/",
        "file:///etc/passwd",
        "//127.0.0.1/",
        "127.0.0.1",
        "http://",
        "http:///x",
        "http://user@127.0.0.1/",
        "http://user:pass@127.0.0.1/",
        "http://@127.0.0.1/",
        "http://example.org\\@127.0.0.1/",
        "http://127.0.0.1:0/",
        "http://127.0.0.1:99999/",
        "http://[::1/",
        "http://127.0.0.1/a b",
        "http://127.0.0.1/\r\nX: y",
        " http://127.0.0.1/",
        "javascript:alert(1)",
    ],
)
async def test_a_url_that_does_not_fit_is_invalid(url: str) -> None:
    assert isinstance(await refusal(tools("*", "*:*"), url), InvalidRequestError)


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "2130706433", "0177.0.0.1", "0x7f.1", "127.1", "[::ffff:127.0.0.1]"],
)
async def test_every_spelling_of_a_private_address_is_refused(host: str) -> None:
    async with site() as server:
        error = await refusal(tools("*:*", allow_private=False), server.url(host=host))
    assert isinstance(error, ForbiddenError), error
    assert error.details["reason"] == "address"
    assert server.requests == []


async def test_metadata_addresses_are_refused_even_where_private_ones_are_allowed() -> None:
    error = await refusal(tools("*:*"), "http://169.254.169.254/latest/meta-data")
    assert isinstance(error, ForbiddenError)


async def test_a_name_that_means_a_private_address_is_refused() -> None:
    registry = tools("*:*", allow_private=False, names={"evil.example": ["10.0.0.1"]})
    assert isinstance(await refusal(registry, "http://evil.example/"), ForbiddenError)


async def test_a_name_that_changes_its_mind_is_connected_where_it_was_checked() -> None:
    async with site() as server:
        # checked as loopback (allowed here); asked again it would be a metadata service
        registry = tools("*:*", names={"evil.example": ["127.0.0.1", "169.254.169.254"]})
        output = await fetch(registry, server.url(host="evil.example"))
        assert output["status"] == 200
        assert isinstance(await refusal(registry, server.url(host="evil.example")), ForbiddenError)
    assert len(server.requests) == 1


def test_the_last_guard_makes_no_socket_for_a_private_address() -> None:
    http = GuardedHttp(allow_private=False)
    info = (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 80))
    with pytest.raises(PermissionError):
        http._make_socket(info)


async def test_redirects_are_followed_and_checked_one_by_one() -> None:
    async with site() as server:
        inner = server.url("/to?url=/end")
        output = await fetch(tools(), server.url(f"/to?url={inner}"))
        assert output["url"] == server.url("/end")
        away = server.url("/to?url=http://example.org/")
        error = await refusal(tools(), away)
        assert error.details["reason"] == "allowlist"
        bad = await refusal(tools(), server.url("/to?url=file:///etc/passwd"))
        assert isinstance(bad, InvalidRequestError)
        private = tools("*:*", allow_private=True)
        meta = await refusal(private, server.url("/to?url=http://169.254.169.254/"))
        assert isinstance(meta, ForbiddenError)


async def test_redirects_end_after_five() -> None:
    async with site() as server:
        error = await refusal(tools(), server.url("/round"))
        assert (error.code, error.details["reason"]) == ("tool_failed", "redirects")
        assert len(server.requests) == 6


async def test_secrets_stay_behind_at_another_origin() -> None:
    async with site() as first, site() as second:
        headers = {"Authorization": "Bearer x", "X-Api-Key": "y", "X-Other": "z"}
        await fetch(
            tools(), first.url(f"/to?url={first.url('/to?url=' + second.url())}"), headers=headers
        )
    assert "Authorization" in first.requests[1].headers
    assert "Authorization" not in second.requests[0].headers
    assert "X-Api-Key" not in second.requests[0].headers
    assert second.requests[0].headers["X-Other"] == "z"


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "x"},
        {"Transfer-Encoding": "chunked"},
        {"X": "a\r\nb: c"},
        {"X Y": "1"},
        {"Proxy-Authorization": "x"},
        {"Content-Length": "5"},
        {"Cookie": "a=b"},
    ],
)
async def test_headers_that_steer_the_connection_are_refused(headers: dict[str, str]) -> None:
    assert isinstance(
        await refusal(tools(), "http://127.0.0.1:1/", headers=headers), InvalidRequestError
    )


@pytest.mark.parametrize(
    ("kind", "byte", "count", "is_text", "truncated"),
    [
        ("text/html", "a", 1000, True, False),
        ("text/html; charset=no-such", "a", 10, True, False),
        ("text/html; charset=punycode", "a", 10, True, False),
        ("application/json", "a", 300_000, True, True),
        ("text/plain", "\x01", 200_000, True, True),
        ("image/png", "a", 1000, False, False),
        ("image/png", "a", 300_000, False, True),
    ],
)
async def test_a_body_fits_its_limits(
    kind: str, byte: str, count: int, is_text: bool, truncated: bool
) -> None:
    async with site() as server:
        url = server.url("/bytes")
        output = await fetch(
            tools(),
            f"{url}?type={kind}&byte={byte!s}&count={count}".replace("\x01", "%01").replace(
                " ", "%20"
            ),
        )
    assert output["truncated"] is truncated
    body = output["body"].encode() if is_text else base64.b64decode(output["body_base64"])
    assert set(body) == {ord(byte)}
    assert (len(body) == count) is not truncated


async def test_nobody_there_and_no_such_name_fail(unused_tcp_port: int) -> None:
    gone = await refusal(tools(), f"http://127.0.0.1:{unused_tcp_port}/")
    assert isinstance(gone, ToolFailedError)
    unknown = await refusal(tools("*:*", names={}), "http://nowhere.example/")
    assert (unknown.code, unknown.details["reason"]) == ("tool_failed", "dns")


async def test_a_server_that_speaks_no_http_fails() -> None:
    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"220 smtp.example ESMTP\r\n")
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(babble, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        error = await refusal(tools(), f"http://127.0.0.1:{port}/")
    assert (error.code, error.details["reason"]) == ("tool_failed", "http")


async def test_the_time_limit_and_cancellation_close_the_connection() -> None:
    async with site() as server:
        with pytest.raises(TimedOutError):
            await tools().call(
                caller(), call("tool.http.fetch", timeout_ms=100, url=server.url("/hang"))
            )
        await asyncio.wait_for(server.left.wait(), 5)
        server.left.clear()
        server.asked.clear()
        task = asyncio.create_task(fetch(tools(), server.url("/hang")))
        await asyncio.wait_for(server.asked.wait(), 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(server.left.wait(), 5)
