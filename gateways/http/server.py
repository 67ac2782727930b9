"""uvicorn, set up for the doors: contract-shaped refusals, and streams that see their socket."""

import asyncio
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Final
from weakref import ref

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from agentos.domain.errors import InvalidRequestError
from agentos.gateways.http.connection import CONNECTION_KEY, CYCLE_KEY, Connection
from agentos.gateways.http.errors import error_body

MAX_HEAD_BYTES: Final = 64 * 1024
BACKLOG: Final = 4096
GRACE_S: Final = 5
REQUEST_S: Final = 30.0
BAD_HTTP: Final = error_body(
    InvalidRequestError("this is not HTTP as we speak it", errors=[]).to_wire(), "none"
)


class WholeAnswers(asyncio.Transport):
    """A transport that keeps a response's head back until its body comes, for one system call.

    uvicorn writes them apart; the second call and the second packet cost as much as everything
    else. It is for streams, and for answers that cannot take the short way (`send_whole`). A head
    without a body goes out in the loop's next turn.
    """

    def __init__(self, inner: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._inner = inner
        self._loop = loop
        self._head = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send, together with a head that was kept back."""
        if self._head:
            head, self._head = self._head, b""
            self._inner.write(head + bytes(data))
        elif data[:5] == b"HTTP/":
            self._head = bytes(data)
            self._loop.call_soon(self.flush)
        else:
            self._inner.write(data)

    def flush(self) -> None:
        """Send a head that is still here."""
        if self._head:
            head, self._head = self._head, b""
            self._inner.write(head)

    def close(self) -> None:
        """Close once everything is sent."""
        self.flush()
        self._inner.close()

    def abort(self) -> None:
        """Close now."""
        self._head = b""
        self._inner.abort()

    def is_closing(self) -> bool:
        """Whether it is closed or about to be."""
        return self._inner.is_closing()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return what the real transport knows."""
        return self._inner.get_extra_info(name, default)

    def pause_reading(self) -> None:
        """Take nothing from the client for now."""
        self._inner.pause_reading()

    def resume_reading(self) -> None:
        """Take from the client again."""
        self._inner.resume_reading()


class DoorProtocol(HttpToolsProtocol):
    """HTTP as uvicorn speaks it, with the connection in the scope, and bounds on requests.

    uvicorn waits for ever for a connection's first request and for the rest of any: here a
    request has `request_s` seconds from the connection or its first bytes to its last.
    """

    request_s: ClassVar[float] = REQUEST_S

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Remember the transport."""
        super().connection_made(WholeAnswers(transport, self.loop))
        self.held = Connection(transport, self.loop)
        self.head_bytes = 0
        self.is_whole = False
        self.patience: asyncio.TimerHandle | None = None
        self._await_rest()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the stream on it."""
        super().connection_lost(exc)
        if self.patience is not None:
            self.patience.cancel()
        if self.held.on_lost is not None:
            self.held.on_lost()

    def data_received(self, data: bytes) -> None:
        """Take what came; time what is missing."""
        super().data_received(data)
        if self.is_whole:
            if self.patience is not None:
                self.patience.cancel()
                self.patience = None
        elif self.patience is None:
            self._await_rest()

    def _await_rest(self) -> None:
        self.patience = self.loop.call_later(self.request_s, self._lose_patience)

    def _lose_patience(self) -> None:
        """Close, unless the request before this one is still being answered."""
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete and not cycle.more_body:
            self._await_rest()
        else:
            self.transport.abort()

    def on_message_complete(self) -> None:
        """End a request."""
        super().on_message_complete()
        self.is_whole = True

    def on_message_begin(self) -> None:
        """Begin a request."""
        super().on_message_begin()
        self.is_whole = False
        self.head_bytes = 0
        self.scope[CONNECTION_KEY] = self.held  # type: ignore[typeddict-unknown-key]

    def on_headers_complete(self) -> None:
        """Begin to answer."""
        super().on_headers_complete()
        # Weak: the cycle holds the scope, and a request must not wait for the garbage collector.
        self.scope[CYCLE_KEY] = ref(self.cycle)  # type: ignore[typeddict-unknown-key]

    def on_url(self, url: bytes) -> None:
        """Take a part of the URL."""
        self.head_bytes += len(url)
        if self.head_bytes > MAX_HEAD_BYTES:
            raise ValueError("the head of the request is too large")
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take one header."""
        self.head_bytes += len(name) + len(value)
        if self.head_bytes > MAX_HEAD_BYTES:
            raise ValueError("the head of the request is too large")
        super().on_header(name, value)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP, in the contract's shape."""
        head = (
            b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\n"
            b"connection: close\r\ncontent-length: %d\r\n\r\n" % len(BAD_HTTP)
        )
        self.transport.write(head + BAD_HTTP)
        self.transport.close()


class DoorServer(uvicorn.Server):
    """One port. Signals are the process's business: whoever runs it sets `should_exit`."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield


def make_server(app: ASGIApp, tls: ssl.SSLContext | None = None) -> DoorServer:
    """Return a server for `app`; `await server.serve(sockets=[…])` runs it."""
    config = uvicorn.Config(
        app,
        http=DoorProtocol,
        ws="none",
        lifespan="off",
        loop="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=GRACE_S,
        ssl_context_factory=None if tls is None else lambda config, default: tls,
    )
    return DoorServer(config)


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; `OSError` when the port is taken."""
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    return socket.create_server(address[:2], family=family, backlog=BACKLOG)
