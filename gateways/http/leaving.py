"""A client that goes away stops the work that is done for it."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.types import Receive, Scope, Send

from agentos.gateways.http.server import connection_of


class ClientLeftError(Exception):
    """The connection is gone: there is nobody to answer."""


@contextmanager
def stopped_when_left(scope: Scope) -> Iterator[None]:
    """Cancel the block when the client's connection ends; raises `ClientLeftError` then."""
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("only a task can be stopped")
    connection = connection_of(scope)
    has_left = False

    def leave() -> None:
        nonlocal has_left
        has_left = True
        task.cancel()

    connection.on_lost = leave
    try:
        if connection.transport.is_closing():
            raise ClientLeftError
        yield
    except asyncio.CancelledError:
        if not has_left:
            raise
        task.uncancel()
        raise ClientLeftError from None
    finally:
        connection.on_lost = None


async def nobody(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer nothing: an ASGI application for a client that left."""
