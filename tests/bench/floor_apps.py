"""Bare servers to measure beside ours: an echo with pydantic, and a fan-out of events."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

Message = dict[str, Any]
Send = Callable[[Message], Awaitable[None]]
Receive = Callable[[], Awaitable[Message]]


class EchoInput(BaseModel):
    """As the input of a run."""

    type: str
    text: str


class EchoContext(BaseModel):
    """As the context of a run."""

    locale: str = "en-US"
    timezone: str = "UTC"
    labels: dict[str, str] | None = None


class EchoOptions(BaseModel):
    """As the options of a run."""

    priority: str = "normal"
    timeout_ms: int = 180_000
    max_steps: int = 30


class EchoBody(BaseModel):
    """As the body of a run's creation."""

    input: EchoInput
    context: EchoContext = EchoContext()
    run_options: EchoOptions = EchoOptions()
    idempotency_key: str | None = None


def create_echo() -> FastAPI:
    """Return an application that validates a body and answers it: nothing else."""
    app = FastAPI()

    @app.post("/v1/agents/{agent_id}/runs", status_code=201)
    async def echo(agent_id: str, body: EchoBody) -> EchoBody:
        return body

    return app


class FanOut:
    """`GET` is an event stream, `POST` sends one event to every stream."""

    def __init__(self) -> None:
        self._streams: set[Send] = set()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        if scope["method"] == "POST":
            await self._publish(send)
        else:
            await self._stream(receive, send)

    async def _publish(self, send: Send) -> None:
        data = json.dumps({"event": {"payload": {"message": f"at:{time.monotonic_ns()}:"}}})
        frame = {
            "type": "http.response.body",
            "body": f"event: agentos.event\nid: 1\ndata: {data}\n\n".encode(),
            "more_body": True,
        }
        for stream in self._streams:
            await stream(frame)
        await _answer(send, 204, [])
        await send({"type": "http.response.body", "body": b""})

    async def _stream(self, receive: Receive, send: Send) -> None:
        await _answer(send, 200, [(b"content-type", b"text/event-stream")])
        await send({"type": "http.response.body", "body": b": hello\n\n", "more_body": True})
        self._streams.add(send)
        try:
            while (await receive())["type"] != "http.disconnect":  # noqa: ASYNC110 - a protocol's loop
                await asyncio.sleep(0)
        finally:
            self._streams.discard(send)


async def _answer(send: Send, status: int, headers: list[tuple[bytes, bytes]]) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})


def create_fan_out() -> FanOut:
    """Return the bare fan-out."""
    return FanOut()
