"""Clients of event streams inside the bench process: they note when a marked event arrives."""

import asyncio
import re
import time
from collections.abc import Callable, Sequence
from typing import Final

MARK: Final = re.compile(rb'"at:(\d+):"')
AT_ONCE: Final = 100

Heard = Callable[[int, int], None]


class Ear(asyncio.Protocol):
    """One open stream. `heard(mark, monotonic ns)` is called for each marked event."""

    def __init__(self, request: bytes, heard: Heard) -> None:
        self._request, self._heard = request, heard
        self._begun = False
        self.open: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the stream."""
        self.transport = transport  # type: ignore[assignment]
        self.transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Note the marks."""
        now = time.monotonic_ns()
        if not self._begun:
            self._begun = True
            if data.startswith(b"HTTP/1.1 200"):
                self.open.set_result(None)
            else:
                self.open.set_exception(ConnectionError(data[:300].decode(errors="replace")))
        for mark in MARK.finditer(data):
            self._heard(int(mark[1]), now)

    def connection_lost(self, exc: Exception | None) -> None:
        """A stream that ends before it began is an error."""
        if not self.open.done():
            self.open.set_exception(exc or ConnectionError("closed"))


async def open_ears(port: int, requests: Sequence[bytes], heard: Heard) -> list[Ear]:
    """Open one stream for each request, some at a time, and wait until all are open."""
    loop, gate = asyncio.get_running_loop(), asyncio.Semaphore(AT_ONCE)

    async def one(request: bytes) -> Ear:
        async with gate, asyncio.timeout(60):
            _, ear = await loop.create_connection(lambda: Ear(request, heard), "127.0.0.1", port)
            await ear.open
            return ear

    return list(await asyncio.gather(*(one(request) for request in requests)))


def close_ears(ears: Sequence[Ear]) -> None:
    """Close the streams."""
    for ear in ears:
        ear.transport.abort()
