"""Server-sent events as a bare send loop: bounded, cut off when slow, told when to end."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Final

import orjson
from prometheus_client import Gauge
from starlette.types import Scope, Send

from agentos.domain.auth import AuthContext
from agentos.domain.errors import AgentOSError, SlowConsumerError
from agentos.gateways.http.call import call_of
from agentos.gateways.http.connection import Connection, connection_of
from agentos.gateways.http.leaving import CutShort
from agentos.gateways.http.tail import Framed

KEEPALIVE: Final = b": keepalive\n\n"
SLICE: Final = 100
HEADERS: Final = (
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
)
Item = Framed | bytes


class StreamOverError(Exception):
    """The client left, or the process ends: nothing more is to be written."""


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """What one stream may hold, and how patient we are. Times are seconds."""

    max_items: int = 1024
    max_bytes: int = 1024 * 1024
    kernel_bytes: int = 128 * 1024
    keepalive_s: float = 12.0
    write_timeout_s: float = 10.0
    sweep_s: float = 1.0
    catch_ups: int = 32
    tenant_catch_ups: int = 128


class Stream:
    """One client's stream: what waits for it, and the way out.

    While it catches up (`live` is false) too much waiting is no fault of the client: it is
    dropped and read from the log again. Once live, the client is cut off.
    """

    __slots__ = (
        "_bytes",
        "_connection",
        "_cut",
        "_items",
        "_keepalive_due",
        "_limits",
        "_over",
        "_send",
        "_slow",
        "_waiter",
        "has_missed",
        "last_write",
        "live",
        "sending_since",
    )

    def __init__(self, connection: Connection, send: Send, limits: StreamLimits) -> None:
        self._connection = connection
        self._send = send
        self._limits = limits
        self._items: deque[Item] = deque()
        self._bytes = 0
        self._waiter: asyncio.Future[None] | None = None
        self._keepalive_due = False
        self._over = False
        self._slow = False
        self._cut: AgentOSError | None = None
        self.live = False
        self.has_missed = False
        self.sending_since = 0.0
        self.last_write = 0.0

    # In

    def offer(self, framed: Framed) -> None:
        """Take a commit for later; never waits."""
        if self._over or self._slow or self._cut is not None:
            return
        self._bytes += framed.size
        if self._bytes > self._limits.max_bytes or len(self._items) >= self._limits.max_items:
            self._drop()
            return
        self._items.append(framed)
        self._wake()

    def offer_delta(self, data: bytes) -> None:
        """Take a piece of streamed text, unless much is waiting: a delta may be lost."""
        if self._over or self._slow or self._cut is not None:
            return
        if len(self._items) >= self._limits.max_items // 2:
            return
        if self._bytes + len(data) > self._limits.max_bytes // 2 or b"\n" in data:
            return
        self._bytes += len(data)
        self._items.append(b"event: agentos.delta\ndata: %b\n\n" % data)
        self._wake()

    def missed(self) -> None:
        """Have the log read again."""
        self.has_missed = True
        self._wake()

    def end(self) -> None:
        """Let nothing more be written."""
        self._over = True
        self._clear()
        self._wake()

    def cut(self, error: AgentOSError) -> None:
        """Let nothing more be written but why: its caller may not go on."""
        self._cut = error
        self._clear()
        self._wake()

    def sweep(self, now: float) -> None:
        """Abort a client that takes nothing, and say that we live to one that hears nothing."""
        if self.sending_since:
            if now - self.sending_since > self._limits.write_timeout_s:
                self._connection.abort()
        elif now - self.last_write >= self._limits.keepalive_s:
            self._keepalive_due = True
            self._wake()

    def _drop(self) -> None:
        self._clear()
        if self.live:
            self._slow = True
        else:
            self.has_missed = True
        self._wake()

    def _clear(self) -> None:
        self._items.clear()
        self._bytes = 0

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # Out

    async def take(self) -> list[Item]:
        """Wait for something to write; empty when `has_missed` asks to read the log.

        Raises `StreamOverError`, and `SlowConsumerError` when too much was waiting.
        """
        while not self._items and not self.has_missed:
            self._check()
            if self._keepalive_due:
                await self.write(KEEPALIVE)
                continue
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        self._check()
        items = list(self._items)
        self._clear()
        return items

    def _check(self) -> None:
        self._check_cut()
        if self._slow:
            raise SlowConsumerError("the stream was read too slowly; resume behind the last id")

    def _check_cut(self) -> None:
        if self._over:
            raise StreamOverError
        if self._cut is not None:
            raise self._cut

    async def write(self, data: bytes) -> None:
        """Send bytes to the client, waiting until its connection takes them."""
        self._check_cut()
        await self._put(data)

    async def write_error(self, error: AgentOSError) -> None:
        """Send the last frame: why the stream ends."""
        if self._over:
            raise StreamOverError
        await self._put(error_frame(error))

    async def _put(self, data: bytes) -> None:
        now = asyncio.get_running_loop().time()
        self.sending_since = now
        await self._send({"type": "http.response.body", "body": data, "more_body": True})
        self.sending_since = 0.0
        self.last_write = now
        self._keepalive_due = False


class Streams:
    """All open streams of a process: opened, kept alive, and ended here."""

    def __init__(
        self,
        gauge: Gauge,
        limits: StreamLimits | None = None,
        refusal: Callable[[AuthContext], AgentOSError | None] = lambda _: None,
    ) -> None:
        self._gauge = gauge
        self._refusal = refusal
        self._open: dict[Stream, AuthContext | None] = {}
        self._answers: dict[CutShort, AuthContext | None] = {}
        self._ending = False
        self.limits = limits or StreamLimits()
        self.catching_up = asyncio.Semaphore(self.limits.catch_ups)
        self.tenants_catching_up = asyncio.Semaphore(self.limits.tenant_catch_ups)

    def make(self, scope: Scope, send: Send) -> Stream:
        """Return the stream of a request: it can be offered to before it is opened."""
        return Stream(connection_of(scope), send, self.limits)

    @asynccontextmanager
    async def opened(
        self, stream: Stream, scope: Scope, send: Send, headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[None]:
        """Send the head, and at the end what went wrong and the end of the body.

        Inside, `StreamOverError` and every `AgentOSError` end the stream.
        """
        connection = connection_of(scope)
        connection.limit_kernel_buffer(self.limits.kernel_bytes)
        connection.on_lost = stream.end
        call = call_of(scope)
        call.is_stream = True
        self._open[stream] = call.auth
        self._gauge.inc()
        try:
            more = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
            await send({"type": "http.response.start", "status": 200, "headers": [*HEADERS, *more]})
            if connection.transport.is_closing() or self._ending:
                stream.end()
            # Its caller may have been shut out after it came in and before it stood here.
            self._cut_if_refused(stream, call.auth)
            try:
                stream.last_write = asyncio.get_running_loop().time()
                yield
            except AgentOSError as error:
                await stream.write_error(error)
            await _end_body(stream, send)
        except StreamOverError:
            await _end_body(stream, send)
        finally:
            connection.on_lost = None
            self._open.pop(stream, None)
            self._gauge.dec()

    @contextmanager
    def answering(self, auth: AuthContext | None, on_cut: Callable[[], None]) -> Iterator[None]:
        """Count an answer that its own writer streams, for as long as it is made.

        When its caller may not go on, `on_cut` is called and the block cancelled, and this
        raises why.
        """
        answer = CutShort(on_cut)
        self._answers[answer] = auth
        self._gauge.inc()
        try:
            if auth is not None and (error := self._refusal(auth)) is not None:
                raise error
            with answer.stopped_when_cut():
                yield
        finally:
            del self._answers[answer]
            self._gauge.dec()

    async def run(self) -> None:
        """Sweep the streams until cancelled, a slice at a time.

        Streams that fell silent together must not all be kept alive in one go: that would hold
        up everybody's events for as long as a message to all of them takes.
        """
        loop = asyncio.get_running_loop()
        while True:
            streams = tuple(self._open)
            slices = len(streams) // SLICE + 1
            for at in range(slices):
                await asyncio.sleep(self.limits.sweep_s / slices)
                now = loop.time()
                for stream in streams[at::slices]:
                    stream.sweep(now)

    def cut_refused(self) -> None:
        """End the streams whose callers may not go on, each with its error."""
        for stream, auth in tuple(self._open.items()):
            self._cut_if_refused(stream, auth)
        for answer, auth in tuple(self._answers.items()):
            self._cut_if_refused(answer, auth)

    def _cut_if_refused(self, stream: Stream | CutShort, auth: AuthContext | None) -> None:
        if auth is not None and (error := self._refusal(auth)) is not None:
            stream.cut(error)

    def end_all(self) -> None:
        """End every stream, now and from now on: the process stops, clients resume elsewhere."""
        self._ending = True
        for stream in tuple(self._open):
            stream.end()

    def __len__(self) -> int:
        return len(self._open) + len(self._answers)


async def _end_body(stream: Stream, send: Send) -> None:
    # While this waits for a connection that is full, the sweep still watches over it.
    stream.sending_since = asyncio.get_running_loop().time()
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def error_frame(error: AgentOSError) -> bytes:
    """Return the frame that says why a stream was cut off."""
    return b"event: agentos.error\ndata: %b\n\n" % orjson.dumps(
        {"error": error.to_wire()}, default=str
    )
