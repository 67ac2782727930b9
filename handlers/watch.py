"""One headers-only tail of the whole log: what moved, which runs are not final, who has them.

Bodies are read on demand; this only says that something is newer than what is in memory.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable
from contextlib import aclosing
from typing import Final

from agentos.domain.log import Lease, Recorded
from agentos.domain.ports import EventLog
from agentos.domain.run.events import FINAL_TYPES, RunCancelRequested
from agentos.domain.subjects import StreamRef
from agentos.domain.tenant.tenant import TenantDeleted, TenantDisabled, TenantEnabled

CLOSING: Final = frozenset({TenantDisabled.TYPE, TenantDeleted.TYPE})


class LiveRun:
    """A run without a final event, as the headers of its commits tell it."""

    __slots__ = (
        "cancel",
        "lease",
        "offered_at",
        "position",
        "priority",
        "ref",
        "sealed",
        "seen_at",
        "waits_until",
    )

    def __init__(self, ref: StreamRef, seen_at: float) -> None:
        self.ref = ref
        self.seen_at = seen_at
        self.offered_at: float | None = None
        self.position = 0
        self.priority = "normal"
        self.lease: Lease | None = None
        self.cancel = False
        self.sealed = ""
        self.waits_until = 0


class LogWatch:
    """Follows the partition from `start` on. `on_final(ref)` is called for each run that ends,
    `on_waiting(ref)` for each that begins to wait for a person.

    `closed` holds the tenants that were disabled or deleted.
    """

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self.position = 0
        self.runs: dict[StreamRef, LiveRun] = {}
        self.run_ids: dict[str, set[str]] = defaultdict(set)
        self.moved: dict[StreamRef, int] = {}
        self.closed: set[str] = set()
        self.unswept: dict[StreamRef, float] = {}
        self.on_final: Callable[[StreamRef], None] = lambda _: None
        self.on_waiting: Callable[[StreamRef], None] = lambda _: None
        self._read_on = asyncio.Event()

    async def run(self, after: int) -> None:
        """Tail for ever behind position `after`; ends only by cancellation or a lost log."""
        self.position = max(self.position, after)
        tail = self._log.tail(after=after, headers_only=True)
        async with aclosing(tail):  # type: ignore[type-var]  # an async generator
            async for batch in tail:
                now = asyncio.get_running_loop().time()
                for record in batch.records:
                    self.see(record, now)
                    self.position = max(self.position, record.position)
                self._read_on.set()
                self._read_on = asyncio.Event()

    async def reach(self, position: int, timeout: float = 5.0) -> None:
        """Wait until everything up to `position` was seen; `TimeoutError` after `timeout` s."""
        async with asyncio.timeout(timeout):
            while self.position < position:
                await self._read_on.wait()

    async def read_on(self) -> None:
        """Wait until everything that is in the log now was seen."""
        await self.reach(await self._log.head())

    def see(self, record: Recorded, now: float) -> None:
        """Take in one record's headers, from the tail or from a read of its aggregate alone."""
        if record.ref.kind == "run":
            self._see_run(record, now)
        else:
            self.moved[record.ref] = record.position
        if record.ref.kind == "tenant":
            self._see_tenant(record)

    def _see_tenant(self, record: Recorded) -> None:
        """Keep which tenants are not active; their profile does not matter here."""
        if record.types[-1] in CLOSING:
            self.closed.add(record.ref.tenant_id)
        elif record.types[-1] == TenantEnabled.TYPE:
            self.closed.discard(record.ref.tenant_id)

    def _see_run(self, record: Recorded, now: float) -> None:
        if record.is_void or record.types[-1] in FINAL_TYPES:
            if self.runs.pop(record.ref, None) is not None:
                self.run_ids[record.ref.tenant_id].discard(record.ref.aggregate_id)
            self.on_final(record.ref)
            return
        live = self.runs.get(record.ref)
        if live is None:
            live = self.runs[record.ref] = LiveRun(record.ref, now)
            self.run_ids[record.ref.tenant_id].add(record.ref.aggregate_id)
        if record.position <= live.position:
            return
        live.position = record.position
        live.sealed = record.sealed or live.sealed
        live.priority = record.priority or live.priority
        self._see_wait(live, record, now)
        live.lease = record.lease or live.lease
        live.cancel = live.cancel or RunCancelRequested.TYPE in record.types

    def _see_wait(self, live: LiveRun, record: Recorded, now: float) -> None:
        """A run that begins to wait has no holder; one that waited is as one just made."""
        if record.waits_until:
            live.lease = None
            self.on_waiting(record.ref)
        elif live.waits_until:
            live.seen_at, live.offered_at = now, None
        live.waits_until = record.waits_until
