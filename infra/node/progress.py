"""What a starting node has to tell, kept for whoever asks later."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from agentos.infra.node.errors import NodeError

Event = dict[str, Any]


class Progress:
    """The events of one start, in order: each `check`, and at the end `done` or `failed`."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._changed = asyncio.Event()
        self._began = time.monotonic()

    async def check(self, phase: str, name: str, work: Callable[[], Awaitable[str]]) -> None:
        """Do one piece of work and tell what it found and how long it took."""
        began = time.monotonic()
        detail = await work()
        took = round((time.monotonic() - began) * 1000)
        told = {"event": "check", "phase": phase, "name": name, "ok": True}
        self._tell({**told, "detail": detail, "ms": took})

    def done(self, **facts: object) -> None:
        """Tell that the node is ready."""
        took = round((time.monotonic() - self._began) * 1000)
        self._tell({"event": "done", "ms": took, **facts})

    def failed(self, error: NodeError, log: list[str]) -> None:
        """Tell which check failed, with the last lines of its log and the next step."""
        self._tell(
            {
                "event": "failed",
                "check": error.check,
                "message": str(error),
                "next": error.next_step,
                "log": log,
            }
        )

    @property
    def ended(self) -> bool:
        """Return whether the start has come to its end."""
        return bool(self.events) and self.events[-1]["event"] in {"done", "failed"}

    async def watch(self) -> AsyncIterator[Event]:
        """Yield all events from the first to the last."""
        seen = 0
        while True:
            changed = self._changed
            for event in self.events[seen:]:
                yield event
            seen = len(self.events)
            if self.ended:
                return
            await changed.wait()

    def _tell(self, event: Event) -> None:
        self.events.append(event)
        self._changed.set()
        self._changed = asyncio.Event()
