"""The backends that are in use: built when first called, rebuilt when their entry changes."""

import asyncio
from collections.abc import Callable
from typing import Final

from agentos.domain.errors import DependencyUnavailableError
from agentos.domain.models.catalog import BackendEntry
from agentos.domain.ports import ModelBackend

MakeBackend = Callable[[BackendEntry], ModelBackend]
CLOSE_S: Final = 5.0
QUEUE: Final = "queue"


class Slot:
    """One built backend, who uses it, and how many may at a time."""

    def __init__(self, entry: BackendEntry, backend: ModelBackend) -> None:
        self.entry = entry
        self.backend = backend
        self.in_use = 0
        self.is_retired = False
        most = entry.max_concurrency
        self._places = None if most is None else asyncio.Semaphore(most)

    @property
    def is_bounded(self) -> bool:
        """Whether a caller has to `enter`."""
        return self._places is not None

    @property
    def is_full(self) -> bool:
        """Whether the next caller would have to wait."""
        return self._places is not None and self._places.locked()

    async def enter(self, timeout_ms: int) -> None:
        """Take a place; `DependencyUnavailableError` (stage `queue`) when none is free in time."""
        if self._places is None:
            return
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                await self._places.acquire()
        except TimeoutError as exc:
            raise DependencyUnavailableError(
                "the model backend has its hands full", dependency=self.entry.name, stage=QUEUE
            ) from exc

    def leave(self) -> None:
        """Give the place back."""
        if self._places is not None:
            self._places.release()


class Backends:
    """A slot for each backend of the catalog, by its name.

    A backend whose entry is no longer in the catalog is closed when its last call is over.
    `make` raises `AgentOSError` for a backend that cannot be made (a key that is not there).
    """

    def __init__(self, make: MakeBackend) -> None:
        self._make = make
        self._slots: dict[str, Slot] = {}
        self._current: dict[str, BackendEntry] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._is_closed = False

    def hold(self, entry: BackendEntry) -> Slot:
        """Return the backend of an entry, built now if need be; `release` it afterwards."""
        slot = self._slots.get(entry.name)
        if slot is None or not (slot.entry is entry or slot.entry == entry):
            slot = self._built(entry)
        slot.in_use += 1
        return slot

    def _built(self, entry: BackendEntry) -> Slot:
        """Build a backend; one that is out of the catalog by now serves one call only."""
        if self._is_closed:
            raise DependencyUnavailableError("the gateway stops", dependency=entry.name)
        slot = Slot(entry, self._make(entry))
        if self._current.get(entry.name) != entry:
            slot.is_retired = True
            return slot
        self._slots[entry.name] = slot
        return slot

    def release(self, slot: Slot) -> None:
        """Let go of a slot that was held."""
        slot.in_use -= 1
        if slot.is_retired and not slot.in_use:
            self._close(slot)

    def keep_only(self, entries: tuple[BackendEntry, ...]) -> None:
        """Take these for the catalog's; what else there is closes when its calls are over."""
        self._current = {entry.name: entry for entry in entries}
        for name, slot in list(self._slots.items()):
            if self._current.get(name) != slot.entry:
                del self._slots[name]
                self._retire(slot)

    async def aclose(self) -> None:
        """Close all backends, whoever uses them."""
        self._is_closed = True
        for slot in self._slots.values():
            self._close(slot)
        self._slots.clear()
        await asyncio.gather(*self._closing, return_exceptions=True)

    def _retire(self, slot: Slot) -> None:
        slot.is_retired = True
        if not slot.in_use:
            self._close(slot)

    def _close(self, slot: Slot) -> None:
        task = asyncio.create_task(self._closed(slot))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _closed(self, slot: Slot) -> None:
        try:
            async with asyncio.timeout(CLOSE_S):
                await slot.backend.aclose()
        except TimeoutError:
            return
