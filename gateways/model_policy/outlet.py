"""The way out of one streamed answer: frames in, bytes to the client; bounded, never waiting."""

import asyncio

from starlette.types import Scope, Send

from agentos.gateways.http.call import call_of
from agentos.gateways.http.connection import connection_of
from agentos.gateways.http.sse import HEADERS, KEEPALIVE, StreamLimits


class Outlet:
    """What waits for one client, and its writer, which begins with the first frame.

    So an error before it still has an answer of its own, and the head has what of `headers`
    is known by then. A client that takes nothing for
    `limits.write_timeout_s`, or leaves over `limits.max_bytes` waiting, loses its connection.
    """

    def __init__(self, scope: Scope, send: Send, limits: StreamLimits) -> None:
        self._scope = scope
        self._send = send
        self._limits = limits
        self._connection = connection_of(scope)
        self._waiting: list[bytes] = []
        self._size = 0
        self._is_whole = False
        self._writer: asyncio.Task[None] | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._sending_since = 0.0
        self._last_write = 0.0
        self.headers: list[tuple[bytes, bytes]] = []

    @property
    def has_begun(self) -> bool:
        """Whether the head is on its way: no other answer can be given any more."""
        return self._writer is not None

    def push(self, frame: bytes) -> None:
        """Take a frame; never waits."""
        if self._size + len(frame) <= self._limits.max_bytes:
            self._add(frame)
        else:
            self._connection.abort()

    async def finish(self, last: bytes) -> None:
        """Send the last frames behind what waits; returns when all is sent."""
        self._is_whole = True
        self._add(last)
        if self._writer is not None:
            await self._writer

    def clear(self) -> None:
        """Drop what waits: the client may not have it any more."""
        self._waiting.clear()
        self._size = 0

    async def abandon(self) -> None:
        """Write nothing more: the client is gone."""
        if self._writer is not None:
            self._writer.cancel()
            await asyncio.wait([self._writer])

    def _add(self, frame: bytes) -> None:
        self._size += len(frame)
        self._waiting.append(frame)
        if self._writer is None:
            self._writer = asyncio.get_running_loop().create_task(self._write())
        elif self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _write(self) -> None:
        loop = asyncio.get_running_loop()
        call_of(self._scope).is_stream = True
        self._connection.limit_kernel_buffer(self._limits.kernel_bytes)
        self._last_write = loop.time()
        self._watch(loop)
        try:
            headers = [*HEADERS, *self.headers]
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})
            while await self._put(loop):
                if not self._waiting and not self._is_whole:
                    self._waiter = loop.create_future()
                    await self._waiter
        finally:
            self._timer.cancel()

    async def _put(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Send what waits in one message; returns whether more is to come."""
        more = not self._is_whole
        data = self._waiting[0] if len(self._waiting) == 1 else b"".join(self._waiting)
        self._waiting.clear()
        self._size = 0
        self._sending_since = self._last_write = loop.time()
        await self._send({"type": "http.response.body", "body": data, "more_body": more})
        self._sending_since = 0.0
        return more

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Cut off a client that takes nothing; say that we live to one that hears nothing."""
        self._timer = loop.call_later(self._limits.sweep_s, self._watch, loop)
        now = loop.time()
        if self._sending_since:
            if now - self._sending_since > self._limits.write_timeout_s:
                self._connection.abort()
        elif now - self._last_write >= self._limits.keepalive_s:
            self.push(KEEPALIVE)
