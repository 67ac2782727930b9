"""A client that goes away, or is shut out, stops the work that is done for it."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from starlette.types import Receive, Scope, Send

from agentos.domain.errors import AgentOSError
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


class CutShort:
    """Work whose caller may be shut out while it goes on. Used once."""

    def __init__(self, on_cut: Callable[[], None]) -> None:
        self._on_cut = on_cut
        self._task: asyncio.Task[object] | None = None
        self._why: AgentOSError | None = None

    @contextmanager
    def stopped_when_cut(self) -> Iterator[None]:
        """Cancel the block when `cut` is called; raises its error then."""
        self._task = asyncio.current_task()
        try:
            yield
        except asyncio.CancelledError:
            if self._why is None or self._task is None:
                raise
            self._task.uncancel()
            raise self._why from None
        finally:
            self._task = None

    def cut(self, error: AgentOSError) -> None:
        """Stop it, because of `error`; the first one counts."""
        if self._task is None or self._why is not None:
            return
        self._why = error
        self._on_cut()
        self._task.cancel()


async def nobody(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer nothing: an ASGI application for a client that left."""
