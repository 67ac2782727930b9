"""The work queue in memory."""

import asyncio
from dataclasses import dataclass, replace
from typing import Final

from agentos.domain.ports import WorkItem
from agentos.domain.subjects import StreamRef, work

ACK_WAIT: Final = 3.0
MAX_WAITING: Final = 200_000


@dataclass(slots=True)
class _Entry:
    item: WorkItem
    taken_until: float = 0.0


class MemoryQueue:
    """Runs that wait for an executor of this process."""

    def __init__(self, ack_wait: float = ACK_WAIT) -> None:
        self._ack_wait = ack_wait
        self._entries: dict[StreamRef, _Entry] = {}
        self._grown = asyncio.Event()
        self._puts = 0

    async def put(self, item: WorkItem) -> None:
        """Offer a run; an item of the same run that is still there is replaced."""
        work(item.ref.tenant_id, item.ref.aggregate_id)
        self._puts += 1
        self._entries.pop(item.ref, None)
        if len(self._entries) >= MAX_WAITING:
            del self._entries[next(iter(self._entries))]
        self._entries[item.ref] = _Entry(replace(item, token=self._puts))
        self._grown.set()

    async def take(self, limit: int, timeout: float) -> list[WorkItem]:
        """Take up to `limit` items, waiting at most `timeout` seconds for the first."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        while True:
            now = loop.time()
            if taken := self._take(limit, now):
                return taken
            if now >= deadline:
                return []
            self._grown.clear()
            due = (e.taken_until for e in self._entries.values())
            try:
                async with asyncio.timeout_at(min(deadline, *due, deadline)):
                    await self._grown.wait()
            except TimeoutError:
                continue

    def _take(self, limit: int, now: float) -> list[WorkItem]:
        taken: list[WorkItem] = []
        for entry in self._entries.values():
            if len(taken) == limit:
                break
            if entry.taken_until <= now:
                entry.taken_until = now + self._ack_wait
                taken.append(entry.item)
        return taken

    async def done(self, item: WorkItem) -> None:
        """Strike the item off, unless a newer one took its place."""
        entry = self._entries.get(item.ref)
        if entry is not None and entry.item.token == item.token:
            del self._entries[item.ref]

    async def size(self) -> int:
        """Return how many items wait or are in hand."""
        return len(self._entries)
