"""Commands to handlers in the same process."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from agentos.domain.auth import AuthContext
from agentos.domain.errors import DependencyUnavailableError, TimedOutError

Handler = Callable[[AuthContext, Mapping[str, Any]], Awaitable[dict[str, Any]]]


class MemoryBus:
    """Calls the handler of a command's name; `handlers` may grow while it is used."""

    def __init__(self, handlers: dict[str, Handler]) -> None:
        self.handlers = handlers

    async def send(
        self, name: str, auth: AuthContext, command: Mapping[str, Any], *, timeout: float = 10.0
    ) -> dict[str, Any]:
        """Call a handler and return its answer; as `CommandBus.send`."""
        handler = self.handlers.get(name)
        if handler is None:
            raise DependencyUnavailableError(
                "no handler listens", dependency="handlers", command=name
            )
        try:
            async with asyncio.timeout(timeout):
                return await handler(auth, command)
        except TimeoutError as exc:
            raise TimedOutError(f"{name} was not answered in {timeout} s", command=name) from exc
