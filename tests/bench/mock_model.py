"""A model server that costs next to nothing: what stands behind gateways when they are timed.

`python -m tests.bench.mock_model PORT`. It answers every chat completion with the same text, as
a whole or as a stream, in OpenAI's format, and counts nothing.
"""

import asyncio
import json
import sys
from typing import Any, Final

TEXT: Final = "The harbour is calm this morning, with a light wind from the west."
USAGE: Final = {"prompt_tokens": 260, "completion_tokens": 16, "total_tokens": 276}


def _whole() -> bytes:
    answer: dict[str, Any] = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "mock",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": TEXT},
                "finish_reason": "stop",
            }
        ],
        "usage": USAGE,
    }
    body = json.dumps(answer).encode()
    return (
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        % len(body)
    ) + body


def _chunk(content: dict[str, Any], **more: Any) -> bytes:
    choices = [{"index": 0, "delta": content, "finish_reason": None}] if content else []
    chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "mock"}
    return b"data: " + json.dumps({**chunk, "choices": choices, **more}).encode() + b"\n\n"


def _streamed() -> bytes:
    words = [word + " " for word in TEXT.split(" ")]
    end = [{"index": 0, "delta": {}, "finish_reason": "stop"}]
    parts = [
        _chunk({"role": "assistant", "content": ""}),
        *(_chunk({"content": word}) for word in words),
        _chunk({}, choices=end),
        _chunk({}, usage=USAGE),
        b"data: [DONE]\n\n",
    ]
    body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
    head = (
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    return head + body


WHOLE: Final = _whole()
STREAMED: Final = _streamed()


class MockModel(asyncio.Protocol):
    """One connection: a request in, the answer out, at once."""

    def __init__(self) -> None:
        self._buffer = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where answers go."""
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """Answer each request that is whole."""
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end].lower()
            at = head.find(b"content-length:")
            size = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            whole = end + 4 + size
            if len(self._buffer) < whole:
                return
            body, self._buffer = self._buffer[end + 4 : whole], self._buffer[whole:]
            is_streamed = b'"stream":true' in body or b'"stream": true' in body
            self._transport.write(STREAMED if is_streamed else WHOLE)


async def serve(port: int) -> None:
    """Serve until the process is ended."""
    server = await asyncio.get_running_loop().create_server(MockModel, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    import uvloop

    uvloop.run(serve(int(sys.argv[1])))
