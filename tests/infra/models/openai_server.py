"""A real HTTP server on loopback that speaks OpenAI's chat completion format."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

Reply = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class OpenAIServer:
    """Answers with its replies in order, the last one again and again; keeps what it was asked."""

    replies: list[Reply] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    connections: set[int] = field(default_factory=set)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    base_url: str = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one chat completion."""
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


@asynccontextmanager
async def openai_server(*replies: Reply) -> AsyncIterator[OpenAIServer]:
    """Run the server on a free port."""
    server = OpenAIServer(list(replies) or [echo])
    app = web.Application(client_max_size=8 * 1024 * 1024)
    app.router.add_post("/v1/chat/completions", server.handle)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.base_url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    try:
        yield server
    finally:
        await runner.cleanup()


def chunk(delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    """Return one chunk of a streamed completion."""
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    return _object([choice], None)


def usage_chunk(input_tokens: int, output_tokens: int) -> dict[str, Any]:
    """Return the last chunk, which has the usage and no choice."""
    total = input_tokens + output_tokens
    usage = {"prompt_tokens": input_tokens, "completion_tokens": output_tokens}
    return _object([], usage | {"total_tokens": total})


def _object(choices: list[Any], usage: Any) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": "fake-1",
        "system_fingerprint": None,
        "choices": choices,
        "usage": usage,
    }


def call_piece(index: int, call_id: str | None, name: str | None, arguments: str) -> dict[str, Any]:
    """Return a delta with one piece of a tool call."""
    function: dict[str, Any] = {"arguments": arguments}
    piece: dict[str, Any] = {"index": index, "function": function}
    if call_id is not None:
        piece |= {"id": call_id, "type": "function"}
        function["name"] = name
    return {"tool_calls": [piece]}


def stream(chunks: Sequence[dict[str, Any]], *, done: bool = True, cut: bool = False) -> Reply:
    """Return a reply that streams `chunks`; `cut` breaks the connection behind them."""

    async def reply(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for each in chunks:
            await response.write(f"data: {json.dumps(each)}\n\n".encode())
        if cut:
            assert request.transport is not None
            request.transport.abort()
        elif done:
            await response.write(b"data: [DONE]\n\n")
        return response

    return reply


def text_stream(*texts: str, usage: tuple[int, int] | None = (11, 7)) -> Reply:
    """Return a reply that streams a text in pieces."""
    chunks = [chunk({"role": "assistant", "content": ""})]
    chunks += [chunk({"content": text}) for text in texts]
    chunks.append(chunk({}, "stop"))
    return stream([*chunks, usage_chunk(*usage)] if usage else chunks)


async def echo(request: web.Request) -> web.StreamResponse:
    """Reply with the last user text, in one piece."""
    messages = (await request.json())["messages"]
    text = next(m["content"] for m in reversed(messages) if m["role"] == "user")
    return await text_stream(text)(request)


def status(code: int, body: Any = None, **headers: str) -> Reply:
    """Return a reply with an error status, in OpenAI's error shape if `body` is a text."""

    async def reply(request: web.Request) -> web.StreamResponse:
        error = {"message": body, "type": "x", "param": None, "code": None}
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.json_response({"error": error}, status=code, headers=named)

    return reply


def raw(body: bytes, content_type: str, code: int = 200) -> Reply:
    """Return a reply with any bytes."""

    async def reply(request: web.Request) -> web.StreamResponse:
        return web.Response(body=body, status=code, headers={"Content-Type": content_type})

    return reply


async def hang(request: web.Request) -> web.StreamResponse:
    """Begin a stream and never go on."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    await response.write(f"data: {json.dumps(chunk({'content': 'begin'}))}\n\n".encode())
    await asyncio.sleep(60)
    return response


async def abort(request: web.Request) -> web.StreamResponse:
    """Break the connection before any answer."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()
