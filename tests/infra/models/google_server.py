"""A fake of Gemini's generateContent and batchEmbedContents, for `fake_server.model_server`."""

import json
from collections.abc import Sequence
from typing import Any

from aiohttp import web

from tests.infra.models.fake_server import (
    JSON,
    SSE,
    Reply,
    Vendor,
    broken,
    error_status,
    pieces,
    raw,
    sse,
)

OVERLOADED = {"error": {"code": 503, "message": "busy", "status": "UNAVAILABLE"}}


def content(
    parts: Sequence[Any], finish: str | None = None, usage: tuple[int, int] | None = None
) -> dict[str, Any]:
    """Return an answer, or one chunk of it."""
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": list(parts)}, "index": 0}
    if finish is not None:
        candidate["finishReason"] = finish
    made: dict[str, Any] = {"candidates": [candidate], "modelVersion": "gemini-fake"}
    if usage is not None:
        made["usageMetadata"] = {
            "promptTokenCount": usage[0],
            "candidatesTokenCount": usage[1],
            "totalTokenCount": sum(usage),
        }
    return made


def either(whole: Reply, streamed: Reply) -> Reply:
    """Return a reply that is `streamed` to who asked for that."""

    async def reply(request: web.Request) -> web.StreamResponse:
        is_streamed = "streamGenerateContent?alt=sse" in request.raw_path
        return await (streamed if is_streamed else whole)(request)

    return reply


def json_of(value: Any) -> Reply:
    """Return a reply of JSON as Google labels it."""
    return raw(json.dumps(value).encode(), "application/json; charset=UTF-8")


def events(*chunks: Any, then: str = "end") -> Reply:
    """Return a reply of events; Google's lines end with a carriage return too."""
    return pieces([sse(c).replace(b"\n", b"\r\n") for c in chunks], SSE, then=then)


def text(*texts: str, usage: tuple[int, int] = (11, 7), finish: str = "STOP") -> Reply:
    """Return a reply with a text."""
    whole = json_of(content([{"text": "".join(texts)}], finish, usage))
    chunks = [content([{"text": each}]) for each in texts[:-1]]
    return either(whole, events(*chunks, content([{"text": texts[-1]}], finish, usage)))


def calls(asked: Sequence[tuple[str, str]]) -> Reply:
    """Return a reply that asks for tools; each comes whole."""
    parts = [
        {"functionCall": {"name": name, "args": json.loads(arguments)}} for name, arguments in asked
    ]
    chunks = [content([part]) for part in parts]
    streamed = events(*chunks, content([{"text": ""}], "STOP", (5, 6)))
    return either(json_of(content(parts, "STOP", (5, 6))), streamed)


def status(code: int, words: str, **headers: str) -> Reply:
    """Return an error in Google's shape."""
    error = {"code": code, "message": words, "status": "INVALID_ARGUMENT"}
    return error_status(code, {"error": error}, **headers)


def embeddings(vectors: Sequence[Sequence[float]]) -> Reply:
    """Return a reply with vectors."""
    return json_of({"embeddings": [{"values": list(vector)} for vector in vectors]})


_HALF = content([{"text": "half"}])

GOOGLE = Vendor(
    kind="google",
    key="AIza-very-secret",
    root="/v1beta",
    text=text,
    calls=calls,
    status=status,
    half=either(broken(json.dumps(_HALF).encode(), JSON), events(_HALF, then="cut")),
    unended=events(_HALF),
    stalled=events(_HALF, then="stalled"),
    failing=either(json_of(OVERLOADED), events(_HALF, OVERLOADED)),
    embeddings=embeddings,
)
