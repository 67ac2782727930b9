"""HTTP/1.1 to one server: connections that are kept, one exchange at a time on each.

It does what a model server needs and no more: bodies that are at hand, answers as they come, no
redirects, cookies, proxies or compression. See docs/decisions/026.
"""

import asyncio
import ssl
from collections.abc import Mapping
from typing import Final, cast

import httptools
from yarl import URL

MAX_HEAD_BYTES: Final = 64 * 1024
MAX_HELD_BYTES: Final = 256 * 1024
KEPT_S: Final = 15.0


class BrokenOffError(ConnectionError):
    """The connection ended, or was never made; `is_sent` says whether the request may be there."""

    def __init__(self, *, is_sent: bool) -> None:
        super().__init__("the connection ended")
        self.is_sent = is_sent


class NotHttpError(Exception):
    """What came is no HTTP answer."""


class Exchange(asyncio.Protocol):
    """One connection. `ask`, then `more` until `is_whole`; then it may be asked again.

    `TimeoutError` from any of them once the loop's time passes what `until` was last told.
    """

    def __init__(self, kept: "Kept") -> None:
        self.loop = kept.loop
        self._kept = kept
        self._transport: asyncio.Transport
        self._parser = httptools.HttpResponseParser(self)
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._begin()
        self.idle_since = 0.0

    def _begin(self) -> None:
        self._pieces: list[bytes] = []
        self._held = self._head_bytes = 0
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._deadline = 0.0
        self._is_paused = False
        self.status = 0
        self.headers: dict[str, str] = {}
        self.has_head = self.is_complete = False
        self._may_stay = self._is_spoiled = False

    # What is asked

    async def ask(self, request: bytes, deadline: float) -> None:
        """Send a request and wait for the answer's head: `status` and `headers` (small letters)."""
        self.until(deadline)
        self._transport.write(request)
        while not self.has_head:
            await self._news()

    def until(self, deadline: float) -> None:
        """Set when waiting ends, in the loop's time."""
        self._deadline = deadline
        if self._timer is None or deadline < self._due:
            self._stop_timer()
            self._timer, self._due = self.loop.call_at(deadline, self._late), deadline

    @property
    def is_whole(self) -> bool:
        """Whether the answer came to its end and all of it was taken."""
        return self.is_complete and not self._pieces

    async def more(self) -> bytes:
        """Return what has come of the body, at least a byte; `b""` at its end."""
        while not self._pieces:
            if self.is_complete:
                return b""
            await self._news()
        taken = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces = []
        self._held = 0
        if self._is_paused:
            self._is_paused = False
            self._transport.resume_reading()
        return taken

    def end(self) -> bool:
        """End the exchange; whether the connection can be used for another one."""
        is_over = self.is_whole and self._may_stay and not self._is_spoiled
        if not is_over or self.is_closing or self._transport.get_write_buffer_size():
            self._stop_timer()
            self.abort()
            return False
        self._begin()
        return True

    @property
    def is_closing(self) -> bool:
        """Whether the connection ended or is about to."""
        return self._transport.is_closing()

    def abort(self) -> None:
        """Close the connection, whatever is on it."""
        self._transport.abort()

    async def _news(self) -> None:
        if self._error is not None:
            raise self._error
        self._waiter = self.loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, error: Exception) -> None:
        if self._error is None and not self.is_complete:
            self._error = error
        self._wake()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        # One timer does for many exchanges: it is set again when it comes, if it came too early.
        self._timer = None
        if self.loop.time() < self._deadline:
            self.until(self._deadline)
        elif self._deadline:
            self._fail(TimeoutError())

    # What comes

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance

    def data_received(self, data: bytes) -> None:
        """Take a piece of the answer; what nobody asked for ends the connection."""
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._is_spoiled = True
            self._fail(BrokenOffError(is_sent=True) if self.has_head else NotHttpError())
            self._transport.abort()
        if self._waiter is not None:
            self._wake()
        elif self.idle_since:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """End: of an answer without a length this is the end of its body."""
        headers = self.headers
        has_length = "content-length" in headers or "transfer-encoding" in headers
        if self.has_head and exc is None and not has_length and not self._is_spoiled:
            self.is_complete = True
        self._fail(BrokenOffError(is_sent=True))
        self._stop_timer()
        self._kept.lost(self)

    def on_message_begin(self) -> None:
        """Hear of an answer; a second one was not asked for."""
        if self.is_complete:
            self._is_spoiled = True

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > MAX_HEAD_BYTES:
            raise ValueError("the head is too large")
        self.headers[name.decode("latin-1").lower()] = value.decode("utf-8", "replace")

    def on_headers_complete(self) -> None:
        """Hear that the head is whole."""
        if self._parser.get_status_code() >= 200 and not self._is_spoiled:
            self.status = self._parser.get_status_code()
            self._may_stay = self._parser.should_keep_alive()
            self.has_head = True

    def on_body(self, data: bytes) -> None:
        """Take a piece of the body; a reader that is slow slows the server down."""
        if self._is_spoiled:
            return
        self._pieces.append(data)
        self._held += len(data)
        if self._held > MAX_HELD_BYTES and not self._is_paused:
            self._is_paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        """Hear that the answer is whole, or that one of the 1xx was and the answer comes yet."""
        if self.has_head:
            self.is_complete = True
        else:
            self.headers = {}


class Kept:
    """The connections to one server: at most `limit`, idle ones for some seconds.

    `headers` go with every request. `ValueError` for one that is no line. It belongs to the loop
    that it is made in: asking which one runs is a system call, so nobody asks again.
    """

    def __init__(
        self, url: URL, headers: Mapping[str, str], *, limit: int, connect_s: float
    ) -> None:
        self._host, self._port = str(url.raw_host), url.port or 80
        self._tls = ssl.create_default_context() if url.scheme == "https" else None
        self._connect_s = connect_s
        own = {"Host": str(url.host_port_subcomponent), "Accept": "*/*", "User-Agent": "agentos"}
        self._head = header_lines({**own, **headers})
        self.loop = asyncio.get_running_loop()
        self._room = asyncio.Semaphore(limit)
        self._idle: list[Exchange] = []
        self._used: set[Exchange] = set()
        self._sweep: asyncio.TimerHandle | None = None

    def request(self, method: str, url: URL, headers: Mapping[str, str], body: bytes) -> bytes:
        """Return a request as it is sent."""
        length = f"Content-Length: {len(body)}\r\n" if body or method == "POST" else ""
        head = f"{method} {url.raw_path_qs} HTTP/1.1\r\n{self._head}{header_lines(headers)}{length}"
        return b"%b\r\n%b" % (head.encode(), body)

    async def begin(self, deadline: float) -> Exchange:
        """Return a connection that nobody else uses; give it back by `end`.

        Raises `BrokenOffError` when there is none within the time that connecting may take, and
        `TimeoutError` when that is the deadline's time.
        """
        if self._room.locked():
            async with asyncio.timeout_at(deadline):
                await self._room.acquire()
        else:
            await self._room.acquire()
        try:
            found = self._waiting() or await self._connected(deadline)
        except BaseException:
            self._room.release()
            raise
        found.idle_since = 0.0
        self._used.add(found)
        return found

    def end(self, exchange: Exchange) -> None:
        """Take a connection back; it is kept if its answer was read to the end."""
        self._used.discard(exchange)
        self._room.release()
        if exchange.end():
            exchange.idle_since = self.loop.time()
            self._idle.append(exchange)
            if self._sweep is None:
                self._sweep = self.loop.call_later(KEPT_S, self._forget)

    def lost(self, exchange: Exchange) -> None:
        """Hear that a connection ended."""
        if exchange.idle_since and exchange in self._idle:
            self._idle.remove(exchange)

    def close(self) -> None:
        """End every connection."""
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        for exchange in (*self._idle, *self._used):
            exchange.abort()
        self._idle.clear()

    def _forget(self) -> None:
        oldest = self.loop.time() - KEPT_S
        for exchange in [one for one in self._idle if one.idle_since <= oldest]:
            exchange.abort()
            self._idle.remove(exchange)
        self._sweep = self.loop.call_later(KEPT_S / 3, self._forget) if self._idle else None

    def _waiting(self) -> Exchange | None:
        while self._idle:
            if not (found := self._idle.pop()).is_closing:
                return found
        return None

    async def _connected(self, deadline: float) -> Exchange:
        limit = min(deadline, self.loop.time() + self._connect_s)
        try:
            async with asyncio.timeout_at(limit):
                _, made = await self.loop.create_connection(
                    lambda: Exchange(self), self._host, self._port, ssl=self._tls
                )
        except TimeoutError:
            if limit == deadline:
                raise
            raise BrokenOffError(is_sent=False) from None
        except (OSError, ssl.CertificateError, UnicodeError):
            raise BrokenOffError(is_sent=False) from None
        return made


def header_lines(headers: Mapping[str, str]) -> str:
    """Return headers as lines; `ValueError` for a value that would be more than one."""
    found = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    if found.count("\n") != len(headers) or found.count("\r") != len(headers) or "\0" in found:
        raise ValueError("a header is one line")
    return found
