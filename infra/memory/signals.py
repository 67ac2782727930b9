"""Short-lived messages between the parts of one process."""

import asyncio
from collections.abc import Awaitable, Callable
from itertools import count

OnMessage = Callable[[str, bytes], None]


class MemorySignals:
    """Calls the subscribers by the event loop, in the order of publishing."""

    def __init__(self) -> None:
        self._subscribers: dict[int, tuple[list[str], OnMessage]] = {}
        self._ids = count(1)

    async def publish(self, subject: str, data: bytes) -> None:
        """Send to whoever listens now."""
        loop = asyncio.get_running_loop()
        tokens = subject.split(".")
        for key, (pattern, _) in tuple(self._subscribers.items()):
            if matches(pattern, tokens):
                loop.call_soon(self._deliver, key, subject, data)

    def _deliver(self, key: int, subject: str, data: bytes) -> None:
        if key in self._subscribers:
            self._subscribers[key][1](subject, data)

    async def subscribe(self, subject: str, on_message: OnMessage) -> Callable[[], Awaitable[None]]:
        """Call `on_message(subject, data)` for each message; returns how to stop it."""
        key = next(self._ids)
        self._subscribers[key] = (subject.split("."), on_message)

        async def stop() -> None:
            self._subscribers.pop(key, None)

        return stop


def matches(pattern: list[str], tokens: list[str]) -> bool:
    """Whether a subject fits a pattern with NATS's wildcards (`*` one token, `>` the rest)."""
    for at, part in enumerate(pattern):
        if part == ">":
            return len(tokens) > at
        if at >= len(tokens) or part not in ("*", tokens[at]):
            return False
    return len(tokens) == len(pattern)
