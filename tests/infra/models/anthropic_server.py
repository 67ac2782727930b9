"""A fake of Anthropic's Messages API, for `fake_server.model_server`."""

import json
from collections.abc import Sequence
from typing import Any, Final

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
)

OVERLOADED: Final = {"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}
Event = dict[str, Any]


def events(*found: Event, then: str = "end") -> Reply:
    """Return a reply of named events, whatever was asked."""
    parts = [f"event: {e['type']}\ndata: {json.dumps(e)}\n\n".encode() for e in found]
    return pieces(parts, SSE, then=then)


def message(blocks: Sequence[Any], stop_reason: str | None, usage: tuple[int, int]) -> Event:
    """Return a message object."""
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-fake",
        "content": list(blocks),
        "stop_reason": stop_reason,
        "stop_sequence": None,
        "usage": {"input_tokens": usage[0], "output_tokens": usage[1]},
    }


def begin(input_tokens: int = 11) -> Event:
    """Return the first event of a stream."""
    return {"type": "message_start", "message": message([], None, (input_tokens, 1))}


def text_block(index: int, *texts: str) -> list[Event]:
    """Return the events of a block of text."""
    start = {"type": "text", "text": ""}
    deltas = [{"type": "text_delta", "text": text} for text in texts]
    return _block(index, start, deltas)


def tool_block(index: int, name: str, arguments: str) -> list[Event]:
    """Return the events of a block that asks for a tool; the JSON comes in two pieces."""
    start = {"type": "tool_use", "id": f"toolu_{index}", "name": name, "input": {}}
    half = len(arguments) // 2
    halves = ("", arguments[:half], arguments[half:])
    return _block(index, start, [{"type": "input_json_delta", "partial_json": h} for h in halves])


def _block(index: int, start: Any, deltas: Sequence[Any]) -> list[Event]:
    return [
        {"type": "content_block_start", "index": index, "content_block": start},
        {"type": "ping"},
        *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": index},
    ]


def end(stop_reason: str, output_tokens: int) -> list[Event]:
    """Return the last two events of a stream."""
    delta = {"stop_reason": stop_reason, "stop_sequence": None}
    usage = {"output_tokens": output_tokens}
    return [
        {"type": "message_delta", "delta": delta, "usage": usage},
        {"type": "message_stop"},
    ]


def either(whole: Reply, streamed: Reply) -> Reply:
    """Return a reply that is `streamed` to who asked for that."""

    async def reply(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        return await (streamed if body.get("stream") else whole)(request)

    return reply


def answer(blocks: Sequence[Any], stop_reason: str, usage: tuple[int, int]) -> Reply:
    """Return a whole message."""
    return raw(json.dumps(message(blocks, stop_reason, usage)).encode(), JSON)


def text(*texts: str, usage: tuple[int, int] = (11, 7), stop_reason: str = "end_turn") -> Reply:
    """Return a reply with a text."""
    whole = answer([{"type": "text", "text": "".join(texts)}], stop_reason, usage)
    streamed = [begin(usage[0]), *text_block(0, *texts), *end(stop_reason, usage[1])]
    return either(whole, events(*streamed))


def calls(asked: Sequence[tuple[str, str]]) -> Reply:
    """Return a reply that asks for tools."""
    blocks = [
        {"type": "tool_use", "id": f"toolu_{n}", "name": name, "input": json.loads(arguments)}
        for n, (name, arguments) in enumerate(asked)
    ]
    each = [e for n, (name, text) in enumerate(asked) for e in tool_block(n, name, text)]
    streamed = events(begin(5), *each, *end("tool_use", 6))
    return either(answer(blocks, "tool_use", (5, 6)), streamed)


def status(code: int, words: str, **headers: str) -> Reply:
    """Return an error in the API's shape."""
    error = {"type": "invalid_request_error", "message": words}
    return error_status(code, {"type": "error", "error": error}, **headers)


_HALF = [begin(3), *text_block(0, "half")[:-1]]
_HALF_WHOLE = json.dumps(message([{"type": "text", "text": "half"}], "end_turn", (3, 1))).encode()

ANTHROPIC = Vendor(
    kind="anthropic",
    key="sk-ant-very-secret",
    root="",
    text=text,
    calls=calls,
    status=status,
    half=either(broken(_HALF_WHOLE, JSON), events(*_HALF, then="cut")),
    unended=events(*_HALF, *end("end_turn", 1)[:-2]),
    stalled=events(*_HALF, then="stalled"),
    failing=either(raw(json.dumps(OVERLOADED).encode(), JSON), events(*_HALF, OVERLOADED)),
)
