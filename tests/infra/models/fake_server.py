"""A real HTTP server on loopback for backends of any vendor, and replies that fit them all."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from aiohttp import web

from agentos.domain.models.catalog import BackendEntry, BackendKind, Timeouts

JSON: Final = "application/json"
SSE: Final = "text/event-stream"

Reply = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class ModelServer:
    """Answers with its replies in order, the last one again and again; keeps what it was asked."""

    replies: list[Reply] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    raw_bodies: list[bytes] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    connections: set[int] = field(default_factory=set)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    base_url: str = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one call."""
        self.paths.append(request.raw_path)
        self.raw_bodies.append(await request.read())
        self.bodies.append(await request.json())
        self.headers.append(dict(request.headers))
        self.connections.add(id(request.transport))
        self.asked.set()
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        try:
            return await reply(request)
        except (asyncio.CancelledError, ConnectionError):
            self.left.set()
            raise

    async def greet(self, request: web.Request) -> web.StreamResponse:
        """Answer a GET: that it is there."""
        return web.json_response({"data": [], "models": []})


@asynccontextmanager
async def model_server(*replies: Reply, root: str = "") -> AsyncIterator[ModelServer]:
    """Run a server on a free port; `root` is the path of its base URL."""
    server = ModelServer(list(replies))
    app = web.Application(client_max_size=8 * 1024 * 1024)
    app.router.add_post("/{path:.*}", server.handle)
    app.router.add_get("/{path:.*}", server.greet)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.base_url = f"http://127.0.0.1:{runner.addresses[0][1]}{root}"
    try:
        yield server
    finally:
        await runner.cleanup()


@dataclass(frozen=True)
class Vendor:
    """What the contract suite needs of one vendor's wire format.

    Every reply gives whole or streamed whatever the request asks for. `half` gives the text
    `half` and breaks the connection, `unended` ends in good order without the closing mark,
    `stalled` goes on no more, `failing` goes on with an error.
    """

    kind: BackendKind
    key: str
    root: str
    text: Callable[..., Reply]
    calls: Callable[[Sequence[tuple[str, str]]], Reply]
    status: Callable[..., Reply]
    half: Reply
    unended: Reply
    stalled: Reply
    failing: Reply
    embeddings: Callable[[Sequence[Sequence[float]]], Reply] | None = None
    embed_model: str = "e"
    region: str | None = None

    def entry(self, server: ModelServer | str, **timeouts: int) -> BackendEntry:
        """Return the catalog's entry for a server."""
        return BackendEntry(
            name="there",
            kind=self.kind,
            base_url=server if isinstance(server, str) else server.base_url,
            region=self.region,
            timeouts=Timeouts(**timeouts),
        )


def raw(body: bytes, content_type: str, code: int = 200) -> Reply:
    """Return a reply with any bytes."""

    async def reply(request: web.Request) -> web.StreamResponse:
        return web.Response(body=body, status=code, headers={"Content-Type": content_type})

    return reply


def pieces(parts: Sequence[bytes], content_type: str, *, then: str = "end") -> Reply:
    """Return a reply in pieces, that then comes to its `end`, is `cut`, or has `stalled`."""

    async def reply(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": content_type})
        await response.prepare(request)
        for part in parts:
            await response.write(part)
        if then == "cut":
            assert request.transport is not None
            request.transport.close()
        elif then == "stalled":
            await asyncio.sleep(60)
        return response

    return reply


def broken(body: bytes, content_type: str) -> Reply:
    """Return a reply that says how long it is and breaks off in the middle."""

    async def reply(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": content_type})
        response.content_length = len(body)
        await response.prepare(request)
        await response.write(body[: len(body) // 2])
        assert request.transport is not None
        request.transport.close()
        return response

    return reply


def trickle(content_type: str) -> Reply:
    """Return a reply that sends a byte now and then, without end."""

    async def reply(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": content_type})
        await response.prepare(request)
        while True:
            await response.write(b" ")
            await asyncio.sleep(0.02)

    return reply


def error_status(code: int, body: Any, **headers: str) -> Reply:
    """Return a reply with an error status; `_` in a header's name is `-`."""

    async def reply(request: web.Request) -> web.StreamResponse:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.Response(text=json.dumps(body), status=code, headers=named, content_type=JSON)

    return reply


def sse(data: Any) -> bytes:
    """Return one server-sent event."""
    return f"data: {json.dumps(data)}\n\n".encode()


async def abort(request: web.Request) -> web.StreamResponse:
    """Break the connection before any answer."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()
