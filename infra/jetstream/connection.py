"""One NATS connection a process: it reconnects for ever and never hangs a caller.

`Connection` is nats-py's client with a short way in and out. A direct subscription's handler
is called from the parser itself, with raw bytes: no queue, no task and no header dictionary
in between, which is what the log's speed rests on. It leans on these parts of nats-py
(2.16): `_process_msg`, `_process_err`, `_process_op_err`, `_pending`, `_flush_queue`,
`_pings_outstanding`.
"""

import asyncio
import logging
import re
from collections.abc import Callable
from itertools import count
from typing import Any, Final, NamedTuple

from nats import errors
from nats.aio.client import Client

from agentos.domain.errors import DependencyUnavailableError

RECONNECT_WAIT: Final = 0.15
PING_INTERVAL: Final = 1
CONNECT_TIMEOUT: Final = 10.0
GRACE: Final = 0.2
MAX_BUFFERED: Final = 64 * 1024 * 1024
SAME_ERROR_AGAIN: Final = 10.0
UNSAFE: Final = re.compile(r"[ \t\r\n]")
STATUS: Final = b"NATS/1.0 "

OnMessage = Callable[[bytes, bytes, bytes, bytes], None]
OnError = Callable[[Exception], None]
logger = logging.getLogger(__name__)


class Reply(NamedTuple):
    """An answer: its body and its raw header block (empty without headers)."""

    data: bytes
    headers: bytes

    @property
    def status(self) -> bytes:
        """The status of a message that is only a status (`204`, `404`, `503` …), else empty."""
        return self.headers[9:12] if self.headers.startswith(STATUS) else b""


class DisconnectedError(Exception):
    """There is no connection to the broker, or it broke before the answer came."""


class NoRespondersError(Exception):
    """Nobody listens on the subject."""


class Connection(Client):
    """A connection whose requests fail at once when it breaks, and are cheap while it holds."""

    def __init__(self, on_error: OnError | None = None) -> None:
        super().__init__()
        self._on_error = on_error
        self._direct: dict[int, OnMessage] = {}
        self._waiting: dict[bytes, tuple[asyncio.Future[Any], list[Reply] | None]] = {}
        self._tokens = count(1)
        self._inbox = ""
        self._inbox_bytes = 0
        self._up = asyncio.Event()
        self._last_error = ("", 0.0)
        self._is_let_go = False
        self.on_lost: set[Callable[[], None]] = set()

    # Life

    async def open(self, url: str, name: str) -> None:
        """Connect to one of the comma separated URLs; tries until it is cancelled."""
        await self.connect(
            [part.strip() for part in url.split(",")],
            name=name,
            error_cb=self._report,
            disconnected_cb=self._lost,
            reconnected_cb=self._regained,
            closed_cb=self._lost,
            max_reconnect_attempts=-1,
            reconnect_time_wait=RECONNECT_WAIT,  # type: ignore[arg-type]  # slept, any number
            ping_interval=PING_INTERVAL,
            max_outstanding_pings=2,
            pending_size=0,  # nothing is buffered while there is no connection
        )
        self._inbox = self.new_inbox() + "."
        self._inbox_bytes = len(self._inbox)
        await self.subscribe_direct(self._inbox + "*", self._on_reply)
        self._up.set()

    async def wait_up(self, timeout: float) -> None:
        """Wait until there is a connection; `DisconnectedError` when there is none in time."""
        try:
            async with asyncio.timeout(timeout):
                await self._up.wait()
        except TimeoutError as exc:
            raise DisconnectedError("no connection to NATS") from exc
        if self.is_closed:
            raise DisconnectedError("the connection to NATS was closed")

    @property
    def max_payload_bytes(self) -> int:
        """The server's limit for one message, headers included."""
        return int(self._max_payload)

    @property
    def driver_error(self) -> Exception | None:
        """What the driver last complained about."""
        return self._err

    async def _report(self, error: Exception) -> None:
        if self._on_error is not None:
            self._on_error(error)
        text, now = repr(error), asyncio.get_running_loop().time()
        last, at = self._last_error
        if text != last or now - at > SAME_ERROR_AGAIN:
            self._last_error = (text, now)
            logger.warning("nats: %s", text)

    async def _lost(self) -> None:
        self._break_off()

    def _break_off(self) -> None:
        if self.is_closed:
            self._up.set()  # whoever waits for it shall see that it never comes
        else:
            self._up.clear()
        waiting, self._waiting = self._waiting, {}
        for future, _ in waiting.values():
            if not future.done():
                future.set_exception(DisconnectedError("the connection to NATS broke"))
        for listener in tuple(self.on_lost):
            listener()

    async def _regained(self) -> None:
        self._up.set()

    async def _process_err(self, err_msg: str) -> None:
        """Reconnect after a server's error: nats-py would close for good, a process lives on."""
        error = errors.Error(f"nats: {err_msg}")
        await self._report(error)
        if "permissions violation" not in err_msg:
            await self._process_op_err(error)

    async def _connect_to_server(self, s: Any) -> None:
        """Connect, unless it is let go.

        An attempt may swallow its cancellation; the next one would make the state
        `reconnecting` again, for ever.
        """
        if self._is_let_go:
            raise asyncio.CancelledError
        await super()._connect_to_server(s)

    def let_go(self) -> None:
        """Have no attempt to connect follow the one that is being made."""
        self._is_let_go = True

    async def close(self) -> None:
        """Close it for good, in the middle of a reconnect too."""
        self.let_go()
        await super().close()

    def abort(self) -> None:
        """End the socket now, and drop what the broker has not taken."""
        writer = getattr(self._transport, "_bare_io_writer", None)
        if writer is not None:
            writer.transport.abort()

    async def _process_op_err(self, e: Exception) -> None:
        """Drop what a frozen broker never took, else closing its socket would wait for it."""
        if not self.is_closed and not self.is_reconnecting:
            self.abort()
        self._break_off()
        await super()._process_op_err(e)

    # In

    async def subscribe_direct(self, subject: str, on_message: OnMessage) -> Callable[[], None]:
        """Call `on_message(subject, reply, data, headers)` in the parser for each message.

        It must be quick and must not raise. Returns how to stop it. It outlives reconnects.
        """
        try:
            subscription = await self.subscribe(subject)
        except (errors.ConnectionClosedError, errors.ConnectionDrainingError) as exc:
            raise DisconnectedError("the connection to NATS was closed") from exc
        sid: int = subscription._id
        self._direct[sid] = on_message

        def stop() -> None:
            self._direct.pop(sid, None)
            self._remove_sub(sid)
            if self.is_connected:
                self._write(b"UNSUB %d\r\n" % sid)

        return stop

    async def _process_msg(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes
    ) -> None:
        self._pings_outstanding = 0  # it lives: its answer to a ping may stand far behind
        handler = self._direct.get(sid)
        if handler is None:
            await super()._process_msg(sid, subject, reply, data, headers)
        else:
            handler(subject, reply, data, headers or b"")

    def _on_reply(self, subject: bytes, _reply: bytes, data: bytes, headers: bytes) -> None:
        waiting = self._waiting.get(subject[self._inbox_bytes :])
        if waiting is None or waiting[0].done():
            return
        future, many = waiting
        answer = Reply(data, headers)
        if many is None:
            future.set_result(answer)
            return
        many.append(answer)
        if headers.startswith(STATUS):
            future.set_result(many)

    # Out

    def post(self, subject: str, data: bytes, *, reply: str = "", headers: bytes = b"") -> None:
        """Send without waiting. `headers` is a whole header block.

        Raises `DisconnectedError` without a connection or with too much unsent.
        """
        if UNSAFE.search(subject):
            raise ValueError(f"not a subject: {subject!r}")
        if not self.is_connected or self._pending_data_size > MAX_BUFFERED:
            raise DisconnectedError("no connection to NATS")
        if headers:
            size = len(headers)
            head = f"HPUB {subject} {reply} {size} {size + len(data)}\r\n".encode()
            self._write(b"".join((head, headers, data, b"\r\n")))
        else:
            self._write(
                b"".join((f"PUB {subject} {reply} {len(data)}\r\n".encode(), data, b"\r\n"))
            )

    def _write(self, command: bytes) -> None:
        self._pending.append(command)
        self._pending_data_size += len(command)
        queue = self._flush_queue
        if queue is not None and queue.empty():
            queue.put_nowait(asyncio.get_running_loop().create_future())

    async def ask(
        self, subject: str, data: bytes, *, headers: bytes = b"", timeout: float
    ) -> Reply:
        """Send a request and return its answer.

        Raises `TimeoutError`, `DisconnectedError`, `NoRespondersError`.
        """
        answer: Reply = await self._exchange(subject, data, headers, timeout, None)
        if answer.status == b"503":
            raise NoRespondersError(subject)
        return answer

    async def ask_many(self, subject: str, data: bytes, *, timeout: float) -> list[Reply]:
        """Send a request and return all answers, the last of them a bare status.

        Raises as `ask` does.
        """
        answers: list[Reply] = await self._exchange(subject, data, b"", timeout, [])
        if answers[-1].status == b"503":
            raise NoRespondersError(subject)
        return answers

    async def _exchange(
        self, subject: str, data: bytes, headers: bytes, timeout: float, many: list[Reply] | None
    ) -> Any:
        loop = asyncio.get_running_loop()
        token = str(next(self._tokens))
        key = token.encode()
        future: asyncio.Future[Any] = loop.create_future()
        self._waiting[key] = (future, many)
        timer = loop.call_later(timeout, _expire, future)
        try:
            self.post(subject, data, reply=self._inbox + token, headers=headers)
            return await future
        finally:
            timer.cancel()
            self._waiting.pop(key, None)


def _expire(future: "asyncio.Future[Any]") -> None:
    if not future.done():
        future.set_exception(TimeoutError())


async def connect(
    url: str, name: str, *, on_error: OnError | None = None, timeout: float | None = None
) -> Connection:
    """Return a connection to NATS; credentials are inside the URL.

    `on_error` hears of every driver error; they are logged in any case. Raises
    `DependencyUnavailableError` when there is no connection within `timeout` seconds (10).
    """
    connection = Connection(on_error)
    opening = asyncio.create_task(connection.open(url, name))
    try:
        if not (await asyncio.wait({opening}, timeout=timeout or CONNECT_TIMEOUT))[0]:
            raise TimeoutError
        opening.result()
    except (TimeoutError, OSError, errors.Error) as exc:
        why = connection.driver_error or exc
        await _give_up(connection, opening)
        raise DependencyUnavailableError(
            f"NATS cannot be reached: {why!r}", dependency="nats"
        ) from exc
    except BaseException:
        await _give_up(connection, opening)
        raise
    return connection


async def _give_up(connection: Connection, opening: "asyncio.Task[None]") -> None:
    """End an attempt to connect, as often as it swallows its cancellation."""
    connection.let_go()
    while not opening.done():
        opening.cancel()
        await asyncio.wait({opening}, timeout=GRACE)
    await connection.close()


async def bounded_close(connection: Connection, timeout: float = 2.0) -> None:
    """Close a connection; after `timeout` seconds its socket is ended, whatever is on it."""
    try:
        async with asyncio.timeout(timeout):  # `wait_for` may swallow a cancellation
            await connection.close()
    except TimeoutError:
        logger.warning("nats: closing took longer than %s s", timeout)
        connection.abort()
