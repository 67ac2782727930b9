"""Overlapping pull requests on one consumer, with a bounded buffer and a heartbeat."""

import asyncio
from collections.abc import Callable
from typing import Final, NamedTuple

import orjson

from agentos.infra.jetstream.connection import STATUS, Connection, DisconnectedError
from agentos.infra.jetstream.wire import parse_headers

HEARTBEAT: Final = 0.5
SILENCE: Final = 1.3
EXPIRES: Final = 30.0
MAX_BYTES: Final = 16 * 1024 * 1024
NS: Final = 1_000_000_000


class Delivered(NamedTuple):
    """A message as a consumer delivers it. `reply` is its acknowledgement subject."""

    subject: bytes
    reply: bytes
    data: bytes
    headers: bytes


class Place(NamedTuple):
    """Where a delivered message stands: in the stream, in the consumer, how many follow."""

    stream_sequence: int
    consumer_sequence: int
    pending: int


def place(reply: bytes) -> Place:
    """Return what an acknowledgement subject says (both its short and its long form)."""
    parts = reply.split(b".")
    at = 5 if len(parts) == 9 else 7
    return Place(int(parts[at]), int(parts[at + 1]), int(parts[at + 3]))


class Pull:
    """One consumer's open requests.

    At most `outstanding` messages are on their way, none is asked for but by `want`, so a
    reader that does not ask is never flooded. `broken` says that the consumer must be looked
    after: it was deleted, moved, or the connection was lost.
    """

    def __init__(self, connection: Connection, stream: str, consumer: str) -> None:
        self._connection = connection
        self._next = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self._inbox = connection.new_inbox()
        self._buffer: list[Delivered] = []
        self._waiters: set[asyncio.Future[None]] = set()
        self._heard = 0.0
        self._misses = 0
        self._stop: Callable[[], None] | None = None
        self.outstanding = 0
        self.broken = False
        self.idle = False

    async def open(self) -> None:
        """Begin to listen."""
        self._stop = await self._connection.subscribe_direct(self._inbox, self._on_message)
        self._connection.on_lost.add(self._on_lost)

    def close(self) -> None:
        """Stop listening; what is buffered is lost to this reader."""
        self._connection.on_lost.discard(self._on_lost)
        if self._stop is not None:
            self._stop()
            self._stop = None

    @property
    def buffered(self) -> int:
        """How many messages have come and were not taken."""
        return len(self._buffer)

    def want(self, batch: int) -> None:
        """Ask for up to `batch` more messages."""
        request = {
            "batch": batch,
            "max_bytes": MAX_BYTES,
            "expires": int(EXPIRES * NS),
            "idle_heartbeat": int(HEARTBEAT * NS),
        }
        if self.outstanding <= 0:
            self._hear()
        try:
            self._connection.post(self._next, orjson.dumps(request), reply=self._inbox)
            self.outstanding += batch
        except DisconnectedError:
            self.broken = True

    def take(self, limit: int | None = None) -> list[Delivered]:
        """Return what has come, at most `limit` messages, without waiting."""
        if limit is None or limit >= len(self._buffer):
            taken, self._buffer = self._buffer, []
        else:
            taken, self._buffer = self._buffer[:limit], self._buffer[limit:]
        return taken

    def silent(self) -> bool:
        """Whether not even a heartbeat came while something was asked for.

        True from the second look on: a loop that was held up first reads what has come.
        """
        now = asyncio.get_running_loop().time()
        if self.outstanding <= 0 or now - self._heard <= SILENCE:
            return False
        self._misses += 1
        return self._misses > 1

    async def wait(self, timeout: float) -> None:
        """Wait until something came, were it a heartbeat, at most `timeout` seconds."""
        if self._buffer or self.broken or timeout <= 0:
            return
        loop = asyncio.get_running_loop()
        waiter = loop.create_future()
        self._waiters.add(waiter)
        timer = loop.call_later(timeout, _finish, waiter)
        try:
            await waiter
        finally:
            timer.cancel()
            self._waiters.discard(waiter)

    def _wake(self) -> None:
        for waiter in self._waiters:
            _finish(waiter)

    def _on_lost(self) -> None:
        self.broken = True
        self._wake()

    def _on_message(self, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        self._hear()
        if headers.startswith(STATUS):
            self._on_status(headers)
        else:
            self.outstanding -= 1
            self._buffer.append(Delivered(subject, reply, data, headers))
        self._wake()

    def _hear(self) -> None:
        self._heard = asyncio.get_running_loop().time()
        self._misses = 0

    def _on_status(self, headers: bytes) -> None:
        if headers.startswith(b"NATS/1.0 100"):
            self.idle = True
            return
        left = parse_headers(headers).get("Nats-Pending-Messages")
        if left is None:
            self.broken = True
        else:
            self.outstanding -= int(left)


def _finish(waiter: "asyncio.Future[None]") -> None:
    if not waiter.done():
        waiter.set_result(None)
