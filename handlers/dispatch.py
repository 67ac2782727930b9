"""Which runs are offered to executors, and the sweep that finds the abandoned.

The work queue is a cache of the log: whatever is lost there is offered again from here. At
most one executor's slots of one tenant are out at a time, fewer when many tenants share the
executors; the rest waits here by priority.
"""

import asyncio
import heapq
from collections import defaultdict, deque
from contextlib import suppress
from itertools import count
from math import inf
from typing import Any, Final

import orjson

from agentos.domain.errors import RateLimitedError
from agentos.domain.ports import Clock, RunQueue, Signals, WorkItem
from agentos.domain.run.run import Run
from agentos.domain.subjects import ALL_HEARTBEATS, StreamRef
from agentos.handlers.watch import LiveRun, LogWatch

SILENT_S: Final = 2.0
OVERDUE_MS: Final = 1000
AGAIN_S: Final = 2.0
FOREIGN_S: Final = 3.0
FOREIGN_LOST_S: Final = 30.0
LOST_S: Final = 300.0
SLACK: Final = 64
MAX_WAITING: Final = 100_000
PRIORITIES: Final = {"high": 0, "normal": 1, "low": 2}


class Dispatcher:
    """Offers runs to the queue, tenant by tenant, and knows which executors live."""

    def __init__(
        self, queue: RunQueue, watch: LogWatch, clock: Clock, slots_per_tenant: int
    ) -> None:
        self._queue = queue
        self._watch = watch
        self._clock = clock
        self._slots = slots_per_tenant
        self._heard: dict[str, float] = {}
        self._room: dict[str, int] = {}
        self._places: dict[str, str] = {}
        self._gone: set[str] = set()
        self._shared_places: set[str] = set()
        self._executor_lost = asyncio.Event()
        self._out: dict[str, set[str]] = defaultdict(set)
        self._lines: dict[str, _Line] = defaultdict(_Line)
        self._ready: deque[WorkItem] = deque()
        self._wake = asyncio.Event()
        self._suspects: set[StreamRef] = set()
        self._order = count()
        self._started = asyncio.get_running_loop().time()

    async def listen(self, signals: Signals) -> None:
        """Hear the executors' heartbeats from now on."""
        await signals.subscribe(ALL_HEARTBEATS, self._on_heartbeat)

    def _on_heartbeat(self, subject: str, data: bytes) -> None:
        beat: dict[str, Any] = orjson.loads(data)
        if beat.get("service") != "executor":
            return
        worker = beat["worker_id"]
        self._heard[worker] = asyncio.get_running_loop().time()
        self._room[worker] = int(beat.get("slots", 0))
        if beat.get("leaving"):
            self._lost_sight_of(worker)
        elif (place := beat.get("place")) and place not in self._shared_places:
            self._seen_at(place, worker)

    def _seen_at(self, place: str, worker: str) -> None:
        """Whoever stood at a supervisor's place before is gone; if not, two nodes share it."""
        before = self._places.get(place, worker)
        self._places[place] = worker
        if worker in self._gone:
            self._shared_places.add(place)
        elif before != worker:
            self._gone.add(before)
            self._lost_sight_of(before)

    def _lost_sight_of(self, worker: str) -> None:
        """An executor said goodbye, or its supervisor has put another in its place."""
        self._heard[worker] = -inf
        self._executor_lost.set()

    async def executor_lost(self, timeout: float) -> None:
        """Wait until an executor is known to be gone, at most `timeout` seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._executor_lost.wait()
        self._executor_lost.clear()

    def is_silent(self, worker_id: str) -> bool:
        """Whether an executor was unheard for so long that its leases have ended."""
        heard = self._heard.get(worker_id, self._started)
        return asyncio.get_running_loop().time() - heard > SILENT_S

    def waiting(self) -> dict[str, int]:
        """Return how many runs wait in line, by priority."""
        counts = dict.fromkeys(PRIORITIES, 0)
        names = list(PRIORITIES)
        for line in self._lines.values():
            for entry in line.heap:
                counts[names[entry[0]]] += entry[2].ref.aggregate_id in line.members
        return counts

    def _share(self) -> int:
        """Return how many runs of one tenant may be out: there is room for one tenant more."""
        room = sum(slots for worker, slots in self._room.items() if not self.is_silent(worker))
        return max(1, min(self._slots, (room or self._slots * 2) // (len(self._out) + 1)))

    def require_room(self, tenant_id: str) -> None:
        """Raise `RateLimitedError` when the tenant's line is as long as it may get."""
        line = self._lines.get(tenant_id)
        if line is not None and len(line.members) >= MAX_WAITING:
            details = {"limit": MAX_WAITING, "used": len(line.members), "retry_after_ms": 1000}
            raise RateLimitedError("too many runs of this tenant wait", **details)

    def has_live_holder(self, run: Run) -> bool:
        """Whether an executor holds the run: then the final event is its to write."""
        worker = run.worker_id
        return worker is not None and not run.is_waiting and not self.is_silent(worker)

    async def run(self) -> None:
        """Put in the queue what waited in line and may go now; ends by cancellation."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._ready:
                await self._queue.put(self._ready.popleft())

    async def offer(self, item: WorkItem, priority: str) -> None:
        """Put a run in the queue, or in its tenant's line when all slots are out."""
        tenant, run_id = item.ref.tenant_id, item.ref.aggregate_id
        out = self._out[tenant]
        if run_id in out or len(out) < self._share():
            out.add(run_id)
            await self._queue.put(item)
            return
        line = self._lines[tenant]
        if run_id not in line.members:
            line.members.add(run_id)
            entry = (PRIORITIES[priority], next(self._order), WorkItem(item.ref, item.position))
            heapq.heappush(line.heap, entry)

    def on_final(self, ref: StreamRef) -> None:
        """Policy: when a run ends, its tenant's next waiting run may go."""
        tenant = ref.tenant_id
        if (line := self._lines.get(tenant)) is not None:
            line.drop(ref.aggregate_id)
        if (out := self._out.get(tenant)) is None:
            return
        out.discard(ref.aggregate_id)
        share = self._share()
        while line is not None and len(out) < share and (item := line.pop()) is not None:
            out.add(item.ref.aggregate_id)
            self._ready.append(item)
            self._wake.set()
        if not out:
            del self._out[tenant]
        if line is not None and not line.members:
            del self._lines[tenant]

    def on_waiting(self, ref: StreamRef) -> None:
        """Policy: a run that waits for a person is in nobody's hands; the next one may go."""
        self.on_final(ref)

    def overdue(self) -> list[LiveRun]:
        """Return the runs whose time to wait for a person is over."""
        now = self._clock.now_ms()
        return [live for live in self._watch.runs.values() if 0 < live.waits_until <= now]

    async def sweep(self) -> list[LiveRun]:
        """Offer what the log says is queued or abandoned; return runs that want a cancel."""
        now = asyncio.get_running_loop().time()
        empty = await self._queue.size() == 0
        canceled = []
        for live in list(self._watch.runs.values()):
            if live.cancel:
                canceled.append(live)
            elif not live.waits_until and self._is_lost(live, now, empty):
                live.offered_at = now
                await self.offer(WorkItem(live.ref, live.position), live.priority)
        self._forget_ended()
        return canceled

    def _forget_ended(self) -> None:
        """Free the places of runs that ended before they were counted out."""
        gone = {
            StreamRef(tenant, "run", run_id)
            for tenant, out in self._out.items()
            for run_id in out
            if StreamRef(tenant, "run", run_id) not in self._watch.runs
        }
        for ref in gone & self._suspects:
            self.on_final(ref)
        self._suspects = gone

    def is_abandoned(self, live: LiveRun) -> bool:
        """Whether nobody holds the run's lease any more."""
        lease = live.lease
        if lease is None:
            return True
        overdue = self._clock.now_ms() > lease.deadline_ms + OVERDUE_MS
        return overdue or self.is_silent(lease.worker_id)

    def _is_lost(self, live: LiveRun, now: float, empty: bool) -> bool:
        if live.offered_at is not None and now - live.offered_at < AGAIN_S:
            return False
        if live.lease is not None:
            return self.is_abandoned(live)
        line = self._lines.get(live.ref.tenant_id)
        if line is not None and live.ref.aggregate_id in line.members:
            return False
        is_ours = live.ref.aggregate_id in self._out.get(live.ref.tenant_id, ())
        waited = now - max(live.seen_at, live.offered_at or live.seen_at)
        if waited > (LOST_S if is_ours else FOREIGN_LOST_S):
            return True  # in a queue that is never empty an offer may be lost too
        return empty and waited > (AGAIN_S if is_ours else FOREIGN_S)


class _Line:
    """One tenant's runs that wait for a slot, by priority, then by age."""

    __slots__ = ("heap", "members")

    def __init__(self) -> None:
        self.heap: list[tuple[int, int, WorkItem]] = []
        self.members: set[str] = set()

    def drop(self, run_id: str) -> None:
        """Take a run out of the line; its place in the heap goes when most places are such."""
        self.members.discard(run_id)
        if len(self.heap) > 2 * len(self.members) + SLACK:
            self.heap = [e for e in self.heap if e[2].ref.aggregate_id in self.members]
            heapq.heapify(self.heap)

    def pop(self) -> WorkItem | None:
        while self.heap:
            item = heapq.heappop(self.heap)[2]
            if item.ref.aggregate_id in self.members:
                self.members.discard(item.ref.aggregate_id)
                return item
        return None
