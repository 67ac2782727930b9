"""An answer that comes in over HTTP, with bounds on its size and on how long it may stall."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Final

from agentos.domain.errors import ProviderError
from agentos.infra.models.http1 import Exchange

MAX_BODY_BYTES: Final = 8 * 1024 * 1024
MAX_EVENT_BYTES: Final = 2 * 1024 * 1024
MAX_STREAM_BYTES: Final = 64 * 1024 * 1024
END_OF_BODY_S: Final = 0.05


class Incoming:
    """The body of one answer. Each line of a stream, or a whole body, must come within `idle_s`."""

    __slots__ = ("_end", "_exchange", "_idle_s", "_total")

    def __init__(self, exchange: Exchange, end: float, idle_s: float) -> None:
        self._exchange = exchange
        self._end = end
        self._idle_s = idle_s
        self._total = 0

    def media_type(self) -> str:
        """Return the content type, without its parameters."""
        raw = self._exchange.headers.get("content-type", "")
        return raw.partition(";")[0].strip().lower()

    def moved(self) -> None:
        """Note that the server got on: from now it has `idle_s` again."""
        self._exchange.until(min(self._end, self._exchange.loop.time() + self._idle_s))

    async def whole(self, limit: int = MAX_BODY_BYTES) -> bytes:
        """Return the whole body; `ProviderError` for one over `limit` bytes."""
        exchange = self._exchange
        if not exchange.is_complete:
            self.moved()
        body = await exchange.more()
        if exchange.is_whole:
            return body
        pieces, size = [body], len(body)
        while piece := await exchange.more():
            pieces.append(piece)
            size += len(piece)
            if size > limit:
                raise too_long()
        return b"".join(pieces)

    async def chunk(self) -> bytes:
        """Return the next bytes as they come, `b""` at the end; at most 64 MiB together."""
        chunk = await self._exchange.more()
        self._total += len(chunk)
        if self._total > MAX_STREAM_BYTES:
            raise too_long()
        return chunk

    async def events(self) -> AsyncGenerator[bytes, None]:
        """Yield the data of each server-sent event, its lines joined.

        Comments and other fields are left out, and an event that is not closed by an empty
        line is not yielded. `ProviderError` for an event over 2 MiB or a stream over 64 MiB.
        """
        data: list[bytes] = []
        size = 0
        rest = b""
        self.moved()
        while chunk := await self.chunk():
            if b"\n" in chunk:
                self.moved()
            *lines, rest = (rest + chunk).split(b"\n")
            if len(rest) + size > MAX_EVENT_BYTES:
                raise too_long()
            for line in lines:
                text = line.rstrip(b"\r")
                if text.startswith(b"data:"):
                    data.append(text[5:].removeprefix(b" "))
                    size += len(text)
                elif not text and data:
                    yield b"\n".join(data)
                    data, size = [], 0

    async def reach_end(self) -> None:
        """Read the empty rest, so that the connection is used again; never wait long for it."""
        try:
            async with asyncio.timeout(END_OF_BODY_S):
                while await self._exchange.more():
                    pass
        except TimeoutError:
            return


def too_long() -> ProviderError:
    """Return the error for an answer without end."""
    return ProviderError("the backend's answer is too long", retryable=False)
