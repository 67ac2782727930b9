"""Forwards whose result is not written: each is tried again until it is, none holds up another."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from agentos.domain.errors import AgentOSError
from agentos.domain.subjects import StreamRef

LOOK_S: Final = 0.5
FIRST_PAUSE_S: Final = 2.0
LONGEST_PAUSE_S: Final = 30.0
AT_ONCE: Final = 64
log = logging.getLogger(__name__)


@dataclass(slots=True)
class Left:
    """Why a forward is not finished, how often that was tried, and when it is tried again."""

    why: str
    tries: int = 0
    due: float = 0.0

    def put_off(self, why: str, now: float) -> None:
        """Leave it alone for a while, each time for longer."""
        pause = min(FIRST_PAUSE_S * 2 ** min(self.tries, 10), LONGEST_PAUSE_S)
        self.why, self.tries = why, self.tries + 1
        self.due = now + pause * random.uniform(0.75, 1.25)  # noqa: S311 - jitter


class Unfinished:
    """What is left to finish. `settle(ref)` returns when there is nothing more to do for one.

    Whatever it raises leaves the forward here: only `settle` says that one is over.
    """

    def __init__(self, settle: Callable[[StreamRef], Awaitable[None]]) -> None:
        self._settle = settle
        self._left: dict[StreamRef, Left] = {}
        self._tasks: dict[StreamRef, asyncio.Task[None]] = {}
        self._room = asyncio.Semaphore(AT_ONCE)

    def __len__(self) -> int:
        return len(self._left)

    def add(self, ref: StreamRef, why: str) -> None:
        """Have a forward finished; one that is here already keeps its turn."""
        if ref not in self._left:
            self._left[ref] = Left(why)

    async def run(self) -> None:
        """Settle what is due, many at a time, until cancelled."""
        try:
            while True:
                now = asyncio.get_running_loop().time()
                for ref, left in self._left.items():
                    if left.due <= now and ref not in self._tasks:
                        self._begin(ref)
                await asyncio.sleep(LOOK_S)
        finally:
            tasks = list(self._tasks.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(self, ref: StreamRef) -> None:
        task = self._tasks[ref] = asyncio.create_task(self._try(ref))
        task.add_done_callback(lambda _: self._tasks.pop(ref))

    async def _try(self, ref: StreamRef) -> None:
        left = self._left[ref]
        try:
            async with self._room:
                await self._settle(ref)
        except AgentOSError as error:
            self._put_off(ref, left, error)
        except Exception as error:  # one that cannot be finished must not stop the others
            log.exception("%s was not finished", ref.aggregate_id)
            self._put_off(ref, left, error)
        else:
            del self._left[ref]

    def _put_off(self, ref: StreamRef, left: Left, error: Exception) -> None:
        left.put_off(f"{type(error).__name__}: {error}", asyncio.get_running_loop().time())
        log.warning("%s stays open, try %s: %s", ref.aggregate_id, left.tries, left.why)
