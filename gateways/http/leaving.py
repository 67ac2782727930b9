"""A client that goes away, or is shut out, stops the work that is done for it."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from starlette.types import Receive, Scope, Send

from agentos.domain.errors import AgentOSError
from agentos.gateways.http.connection import connection_of


class ClientLeftError(Exception):
    """The connection is gone: there is nobody to answer."""


class stopped_when_left:  # noqa: N801 - a context manager, on the way of every call
    """Cancel the block when the client's connection ends; raises `ClientLeftError` then."""

    __slots__ = ("_connection", "_has_left", "_task")

    def __init__(self, scope: Scope) -> None:
        self._connection = connection_of(scope)
        task = asyncio.current_task(self._connection.loop)
        if task is None:
            raise RuntimeError("only a task can be stopped")
        self._task = task
        self._has_left = False

    def __enter__(self) -> None:
        if self._connection.transport.is_closing():
            raise ClientLeftError
        self._connection.on_lost = self._leave

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._connection.on_lost = None
        if self._has_left and kind is not None and issubclass(kind, asyncio.CancelledError):
            self._task.uncancel()
            raise ClientLeftError from None

    def _leave(self) -> None:
        self._has_left = True
        self._task.cancel()


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
