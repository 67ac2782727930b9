"""A fake of Bedrock's Converse, ConverseStream and InvokeModel, for `fake_server.model_server`."""

import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any
from zlib import crc32

from aiohttp import web

from agentos.infra.models.event_stream import MEDIA_TYPE
from tests.infra.models.fake_server import (
    JSON,
    Reply,
    Vendor,
    broken,
    error_status,
    pieces,
    raw,
)


def frame(headers: Mapping[str, str], payload: bytes) -> bytes:
    """Return one frame of an event stream."""
    packed = b"".join(
        bytes([len(name)]) + name.encode() + struct.pack(">BH", 7, len(value)) + value.encode()
        for name, value in headers.items()
    )
    prelude = struct.pack(">II", 16 + len(packed) + len(payload), len(packed))
    body = prelude + struct.pack(">I", crc32(prelude)) + packed + payload
    return body + struct.pack(">I", crc32(body))


def event(kind: str, payload: Any) -> bytes:
    """Return an event's frame."""
    headers = {":event-type": kind, ":content-type": JSON, ":message-type": "event"}
    return frame(headers, json.dumps(payload).encode())


def exception(kind: str, words: str) -> bytes:
    """Return the frame of an exception in a stream."""
    headers = {":exception-type": kind, ":content-type": JSON, ":message-type": "exception"}
    return frame(headers, json.dumps({"message": words}).encode())


def usage_of(input_tokens: int, output_tokens: int) -> dict[str, int]:
    """Return the counts of a call."""
    total = input_tokens + output_tokens
    return {"inputTokens": input_tokens, "outputTokens": output_tokens, "totalTokens": total}


def answer(blocks: Sequence[Any], stop_reason: str, usage: tuple[int, int]) -> dict[str, Any]:
    """Return a whole answer."""
    return {
        "output": {"message": {"role": "assistant", "content": list(blocks)}},
        "stopReason": stop_reason,
        "usage": usage_of(*usage),
        "metrics": {"latencyMs": 1},
    }


def text_events(*texts: str) -> list[bytes]:
    """Return the frames of a message with a text, up to the last piece."""
    deltas = ({"delta": {"text": text}, "contentBlockIndex": 0} for text in texts)
    return [
        event("messageStart", {"role": "assistant"}),
        *(event("contentBlockDelta", delta) for delta in deltas),
    ]


def end(stop_reason: str, usage: tuple[int, int]) -> list[bytes]:
    """Return the last frames of a stream."""
    return [
        event("contentBlockStop", {"contentBlockIndex": 0}),
        event("messageStop", {"stopReason": stop_reason}),
        event("metadata", {"usage": usage_of(*usage), "metrics": {"latencyMs": 1}}),
    ]


def events(*frames: bytes, then: str = "end") -> Reply:
    """Return a reply of frames, in chunks that do not end where frames end."""
    data = b"".join(frames)
    cuts = [data[start : start + 50_001] for start in range(0, len(data), 50_001)]
    return pieces(cuts, MEDIA_TYPE, then=then)


def either(whole: Reply, streamed: Reply) -> Reply:
    """Return a reply that is `streamed` to who asked for that."""

    async def reply(request: web.Request) -> web.StreamResponse:
        is_streamed = request.raw_path.endswith("/converse-stream")
        return await (streamed if is_streamed else whole)(request)

    return reply


def json_of(value: Any) -> Reply:
    """Return a reply of JSON."""
    return raw(json.dumps(value).encode(), JSON)


def text(*texts: str, usage: tuple[int, int] = (11, 7), stop_reason: str = "end_turn") -> Reply:
    """Return a reply with a text."""
    whole = json_of(answer([{"text": "".join(texts)}], stop_reason, usage))
    return either(whole, events(*text_events(*texts), *end(stop_reason, usage)))


def calls(asked: Sequence[tuple[str, str]]) -> Reply:
    """Return a reply that asks for tools; streamed, the JSON comes in two pieces."""
    blocks, frames = [], [event("messageStart", {"role": "assistant"})]
    for index, (name, arguments) in enumerate(asked):
        named = {"toolUseId": f"tooluse_{index}", "name": name}
        blocks.append({"toolUse": {**named, "input": json.loads(arguments)}})
        start = {"start": {"toolUse": named}, "contentBlockIndex": index}
        frames.append(event("contentBlockStart", start))
        half = len(arguments) // 2
        for piece in (arguments[:half], arguments[half:]):
            delta = {"delta": {"toolUse": {"input": piece}}, "contentBlockIndex": index}
            frames.append(event("contentBlockDelta", delta))
    streamed = events(*frames, *end("tool_use", (5, 6)))
    return either(json_of(answer(blocks, "tool_use", (5, 6))), streamed)


def status(code: int, words: str, **headers: str) -> Reply:
    """Return an error in AWS's shape."""
    return error_status(code, {"message": words}, **headers)


def cohere_embeddings(vectors: Sequence[Sequence[float]]) -> Reply:
    """Return a reply with vectors as Cohere's models give them."""
    return json_of({"embeddings": [list(vector) for vector in vectors], "id": "e", "texts": []})


_HALF_WHOLE = json.dumps(answer([{"text": "half"}], "end_turn", (3, 1))).encode()
_THROTTLED = exception("throttlingException", "busy")

BEDROCK = Vendor(
    kind="aws-bedrock",
    key="AKIDEXAMPLEAKIDEX:very/secret+key:a-session-token",
    root="",
    text=text,
    calls=calls,
    status=status,
    half=either(broken(_HALF_WHOLE, JSON), events(*text_events("half"), then="cut")),
    unended=events(*text_events("half")),
    stalled=events(*text_events("half"), then="stalled"),
    failing=either(json_of({"message": "busy"}), events(*text_events("half"), _THROTTLED)),
    embeddings=cohere_embeddings,
    embed_model="cohere.embed-english-v3",
    region="eu-west-1",
)
