"""A real HTTP server on loopback that speaks OpenAI's chat completion and embedding formats."""

import base64
import json
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from tests.infra.models.fake_server import (
    JSON,
    SSE,
    ModelServer,
    Reply,
    Vendor,
    abort,
    broken,
    error_status,
    model_server,
    pieces,
    raw,
    sse,
)

OpenAIServer = ModelServer

__all__ = [
    "OPENAI",
    "OpenAIServer",
    "Reply",
    "abort",
    "call_piece",
    "chunk",
    "echo",
    "embeddings",
    "hang",
    "openai_server",
    "raw",
    "status",
    "stream",
    "text_stream",
    "usage_chunk",
]


@asynccontextmanager
async def openai_server(*replies: Reply) -> AsyncIterator[OpenAIServer]:
    """Run the server on a free port."""
    async with model_server(*(replies or [echo]), root="/v1") as server:
        yield server


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
    """Return a reply that streams `chunks`; `cut` breaks the connection behind them.

    Who did not ask for a stream gets the same in one object, broken off in the middle of it
    where `cut` or not `done`.
    """

    async def reply(request: web.Request) -> web.StreamResponse:
        is_whole = done and not cut
        if not (await request.json()).get("stream"):
            whole = json.dumps(completion(chunks)).encode()
            return await (raw if is_whole else broken)(whole, JSON)(request)
        parts = [sse(each) for each in chunks]
        end = [b"data: [DONE]\n\n"] if is_whole else []
        return await pieces([*parts, *end], SSE, then="cut" if cut else "end")(request)

    return reply


def completion(chunks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the whole completion that `chunks` make together."""
    message: dict[str, Any] = {"role": "assistant", "content": None, "refusal": None}
    calls: dict[int, dict[str, Any]] = {}
    finish_reason, usage = None, None
    for each in chunks:
        usage = each["usage"] or usage
        for choice in each["choices"]:
            finish_reason = choice["finish_reason"] or finish_reason
            delta = choice["delta"]
            if delta.get("content") is not None:
                message["content"] = (message["content"] or "") + delta["content"]
            for piece in delta.get("tool_calls", ()):
                call = calls.setdefault(
                    piece["index"], {**piece, "function": {**piece["function"], "arguments": ""}}
                )
                call["function"]["arguments"] += piece["function"]["arguments"]
    if calls:
        message["tool_calls"] = [
            {k: v for k, v in call.items() if k != "index"} for call in calls.values()
        ]
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason}
    return _object([choice], usage) | {"object": "chat.completion"}


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


def embeddings(
    vectors: Sequence[Sequence[float]], *, as_base64: bool = False, input_tokens: int = 3
) -> Reply:
    """Return a reply with vectors, the last one first; the index says what belongs where."""

    def packed(vector: Sequence[float]) -> Any:
        raw = struct.pack(f"<{len(vector)}f", *vector)
        return base64.b64encode(raw).decode() if as_base64 else list(vector)

    async def reply(request: web.Request) -> web.StreamResponse:
        data = [
            {"object": "embedding", "index": index, "embedding": packed(vector)}
            for index, vector in enumerate(vectors)
        ]
        usage = {"prompt_tokens": input_tokens, "total_tokens": input_tokens}
        return web.json_response(
            {"object": "list", "model": "fake-1", "data": data[::-1], "usage": usage}
        )

    return reply


def status(code: int, body: Any = None, **headers: str) -> Reply:
    """Return a reply with an error status, in OpenAI's error shape if `body` is a text."""
    error = {"message": body, "type": "x", "param": None, "code": None}
    return error_status(code, {"error": error}, **headers)


async def hang(request: web.Request) -> web.StreamResponse:
    """Begin a stream and never go on."""
    return await pieces([sse(chunk({"content": "begin "}))], SSE, then="stalled")(request)


def _calls(asked: Sequence[tuple[str, str]]) -> Reply:
    deltas = []
    for index, (name, arguments) in enumerate(asked):
        half = len(arguments) // 2
        deltas.append(call_piece(index, f"call_{index}", name, arguments[:half]))
        deltas.append(call_piece(index, None, None, arguments[half:]))
    return stream([*map(chunk, deltas), chunk({}, "tool_calls"), usage_chunk(5, 6)])


async def _failing(request: web.Request) -> web.StreamResponse:
    error = {"error": {"message": "overloaded", "type": "server_error"}}
    if not (await request.json()).get("stream"):
        return web.json_response(error)
    return await pieces([sse(chunk({"content": "half"})), sse(error)], SSE)(request)


OPENAI = Vendor(
    kind="openai",
    key="sk-very-secret",
    root="/v1",
    text=text_stream,
    calls=_calls,
    status=status,
    half=stream([chunk({"content": "half"})], cut=True),
    unended=stream([chunk({"content": "half"})], done=False),
    stalled=hang,
    failing=_failing,
    embeddings=embeddings,
)
