"""The connection that a request came on, and the short way out for answers that are whole."""

import asyncio
import socket
from collections.abc import Callable, Iterable
from typing import Final, cast
from weakref import ReferenceType

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from agentos.gateways.http.call import Header

CONNECTION_KEY: Final = "agentos.connection"
CYCLE_KEY: Final = "agentos.cycle"


class Connection:
    """The client's connection, for whoever must know its end or bring it about."""

    __slots__ = ("loop", "on_lost", "transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self.transport = transport
        self.loop = loop
        self.on_lost: Callable[[], None] | None = None

    def abort(self) -> None:
        """Close it now and drop what was not taken."""
        self.transport.abort()

    def limit_kernel_buffer(self, size: int) -> None:
        """Let the kernel hold at most about twice `size` bytes that the client has not read."""
        held = self.transport.get_extra_info("socket")
        if held is not None:
            held.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)


def connection_of(scope: Scope) -> Connection:
    """Return the connection that a request came on."""
    return cast("Connection", scope[CONNECTION_KEY])


def send_whole(scope: Scope, status: int, headers: Iterable[Header], body: bytes) -> bool:
    """Send an answer that is there as a whole, at once; its headers' names are in lower case.

    The way through uvicorn's `send` costs as much as half of a small endpoint: two messages, and
    two regular expressions for each header. `False` where only that way is left: the request did
    not come through our server, its client has not taken what was sent before, or an answer was
    begun. A header `connection` of the answer's own is sent and does nothing.
    """
    held: ReferenceType[RequestResponseCycle] | None = scope.get(CYCLE_KEY)
    cycle = None if held is None else held()
    if cycle is None or cycle.response_started or cycle.flow.write_paused:
        return False
    if cycle.disconnected:
        return True
    pieces = [STATUS_LINE[status]]
    for name, value in (*cycle.default_headers, *headers):
        pieces += (name, b": ", value, b"\r\n")
    lines = len(pieces) // 4 + 1
    if not cycle.keep_alive:
        pieces.append(b"connection: close\r\n")
        lines += 1
    head = b"".join(pieces)
    if head.count(b"\n") != lines or head.count(b"\r") != lines or b"\0" in head:
        raise ValueError("a header's value holds a control character")
    cycle.response_started = cycle.response_complete = True
    cycle.waiting_for_100_continue = False
    is_bodiless = scope["method"] == "HEAD"
    transport = connection_of(scope).transport
    cycle.transport.flush()  # type: ignore[attr-defined] # "100 Continue" comes first
    transport.write(head + b"\r\n" if is_bodiless else b"%b\r\n%b" % (head, body))
    cycle.message_event.set()
    if not cycle.keep_alive:
        cycle.transport.close()
    cycle.on_response()
    return True
