"""The policy of retention: finds what is due, archives it, says so in the log, and lets it go.

Any number of processes may do this: a plan is an append under the lock of the tenant's
retention, so one at a time is under way, and whoever finds one that nobody finishes does so.
The order is what makes a kill at any point harmless: archive on disk and read back, `planned`,
a pause in which whoever follows the log hears of it, the archive looked at again, `begun`, the
removal, which can be repeated, `applied`.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import structlog

from agentos.domain.aggregate import FoldError, Moment, next_event
from agentos.domain.archive import ArchiveError
from agentos.domain.auth import SYSTEM_PRINCIPAL
from agentos.domain.envelope import NO_TRACE, Event, Origin
from agentos.domain.errors import AgentOSError, AppendConflictError
from agentos.domain.log import make_commit
from agentos.domain.ports import Clock, EventLog, NewId, Signals
from agentos.domain.retention.retention import (
    KIND,
    Archive,
    RetentionApplied,
    RetentionOf,
    retention_ref,
)
from agentos.domain.retention.rules import KINDS, Kind, NodeRetention, Retention
from agentos.domain.subjects import StreamRef
from agentos.domain.tenant.tenant import Tenant, tenant_ref
from agentos.handlers.crash import CrashPoint, never
from agentos.handlers.directory import Directory
from agentos.handlers.metrics import RetentionMetrics
from agentos.handlers.retention.archives import Archives
from agentos.handlers.retention.batch import Batch
from agentos.handlers.retention.finding import PACE_S, Finder
from agentos.handlers.retention.readers import Readers

FIRST_S: Final = 5.0
HEAR_S: Final = 3.0
HELD_S: Final = 0.1
GRACE_S: Final = 1.0
PATIENCE_S: Final = 10.0
TROUBLE: Final = (
    AgentOSError, TimeoutError, FoldError, ArchiveError, OSError, ValueError, KeyError, TypeError
)  # fmt: skip
"""What is unreachable, or a line that cannot be read: no reason for the process to end."""
log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionParts:
    """What retention works with. `archives` is `None` where what goes is kept nowhere.

    Times are seconds: `every_s` between two rounds, `grace_s` between a plan and its beginning,
    `patience_s` before another process's plan is taken up, `pace_s` between two removals.
    """

    log: EventLog
    clock: Clock
    new_id: NewId
    directory: Directory
    readers: Readers
    rules: NodeRetention
    archives: Archives | None
    idempotency_ttl_ms: int
    every_s: float = 600.0
    grace_s: float = GRACE_S
    patience_s: float = PATIENCE_S
    pace_s: float = PACE_S
    crash_point: CrashPoint = never
    metrics: RetentionMetrics = field(default_factory=RetentionMetrics)

    def moment(self) -> Moment:
        """Return the moment of a decision made now, by the node itself."""
        return Moment(self.clock.now_ms(), self.new_id, Origin(NO_TRACE, SYSTEM_PRINCIPAL))


class RetentionKeeper:
    """Lets go of what is due, a tenant and a kind at a time."""

    def __init__(self, parts: RetentionParts) -> None:
        self._parts = parts
        self._finder = Finder(
            parts.log, parts.clock, parts.readers, parts.idempotency_ttl_ms, parts.pace_s
        )
        self.waiting: dict[str, str] = {}
        """Why what is due of a tenant did not go in the last round."""

    @property
    def log(self) -> EventLog:
        """The log that it works on."""
        return self._parts.log

    async def listen(self, signals: Signals) -> None:
        """Hear how far the read models are, from now on."""
        await self._parts.readers.listen(signals)

    async def hears_a_projector(self, within_s: float = HEAR_S) -> bool:
        """Whether a projector says where it is: without one nothing goes."""
        until = asyncio.get_running_loop().time() + within_s
        while not self._parts.readers.projected():
            if asyncio.get_running_loop().time() > until:
                return False
            await asyncio.sleep(0.05)
        return True

    @property
    def is_held_off(self) -> bool:
        """Whether an export, a backup or a rebuild reads, for which everything waits."""
        return self._parts.readers.is_held_off()

    async def touched(self) -> list[str]:
        """Return the tenants of which something went, or is about to."""
        return sorted(record.ref.tenant_id for record in await self._parts.log.last_of_kind(KIND))

    async def keep(self, signals: Signals) -> None:
        """Make a round now and then until cancelled; what fails is tried again in the next.

        The first one comes soon: a plan that was under way when a process ended is finished.
        """
        await self.listen(signals)
        pause = min(FIRST_S, self._parts.every_s)
        while True:
            await asyncio.sleep(pause)
            pause = self._parts.every_s
            try:
                async for _ in self.round():
                    pass
            except TROUBLE as error:
                self._parts.metrics.failures.inc()
                log.warning("retention waits", error=str(error))

    async def round(self) -> AsyncIterator[tuple[str, RetentionApplied]]:
        """Finish what was begun, then let go of all that is due.

        Yields tenant and plan, each as it is done.
        """
        self.waiting = {}
        open_plans = await self.open_plans()
        for tenant_id in sorted({*open_plans, *await self._tenants()}):
            await asyncio.sleep(self._parts.pace_s)
            try:
                async for applied in self._of_tenant(tenant_id, is_open=tenant_id in open_plans):
                    yield tenant_id, applied
            except TROUBLE as error:
                self._waits(tenant_id, str(error))

    async def open_plans(self) -> list[str]:
        """Return the tenants with a plan that is not done."""
        lasts = await self._parts.log.last_of_kind(KIND)
        return [r.ref.tenant_id for r in lasts if r.types[-1] != RetentionApplied.TYPE]

    async def due(self) -> AsyncIterator[tuple[str, Batch]]:
        """Yield what would go first of each tenant and kind; nothing is changed."""
        for tenant_id in await self._tenants():
            for kind, age in await self._ages(tenant_id):
                if batch := await self._finder.find(tenant_id, kind, age):
                    yield tenant_id, batch

    async def _tenants(self) -> list[str]:
        lasts = await self._parts.log.last_of_kind(Tenant.KIND)
        return sorted(record.ref.tenant_id for record in lasts)

    async def _ages(self, tenant_id: str) -> list[tuple[Kind, int]]:
        tenant = await self._parts.directory.get(Tenant, tenant_ref(tenant_id))
        own: Retention | None = tenant.profile.retention if tenant.status else None
        found = [(kind, self._parts.rules.age_ms(own, kind)) for kind in KINDS]
        return [(kind, age) for kind, age in found if age is not None]

    async def _of_tenant(self, tenant_id: str, *, is_open: bool) -> AsyncIterator[RetentionApplied]:
        if is_open and (applied := await self._take_up(tenant_id)) is not None:
            yield applied
        for kind, age in await self._ages(tenant_id):
            while batch := await self._finder.find(tenant_id, kind, age):
                state = await self._plan(tenant_id, batch)
                if state is None:
                    return  # another process is at it
                if (applied := await self._finish(state)) is None:
                    return
                yield applied

    # One plan

    async def load(self, tenant_id: str) -> RetentionOf:
        """Return a tenant's retention, with the plan that is under way."""
        ref = retention_ref(tenant_id)
        last = await self._parts.log.last(ref)
        if last is None:
            return RetentionOf(ref)
        after = last.base - 1 if last.base else last.position - 1
        return RetentionOf(ref).take(await self._parts.log.read(ref, after=after))

    async def _plan(self, tenant_id: str, batch: Batch) -> RetentionOf | None:
        """Archive what goes and write the plan; `None` when another process was first."""
        parts = self._parts
        state = await self.load(tenant_id)
        if state.phase != "idle":
            return None
        plan_id = parts.new_id("ret")
        parts.crash_point("retention.before_archive")
        archive = await self._archive(tenant_id, plan_id, batch)
        parts.crash_point("retention.after_archive")
        plan = batch.plan(plan_id, archive, dict(state.gone))
        try:
            await self._append(state, [next_event(state, plan, parts.moment())])
        except AppendConflictError:
            if archive is not None and parts.archives is not None:
                await parts.archives.discard(archive.name)
            return None
        parts.crash_point("retention.after_planned")
        return await self.load(tenant_id)

    async def _archive(self, tenant_id: str, plan_id: str, batch: Batch) -> Archive | None:
        if self._parts.archives is None:
            return None
        name = f"{tenant_id}.{batch.kind}.{plan_id}.log.gz"
        return await self._parts.archives.write(name, plan_id, batch.in_order())

    async def _take_up(self, tenant_id: str) -> RetentionApplied | None:
        """Finish a plan that another process does not finish."""
        before = await self.load(tenant_id)
        await asyncio.sleep(self._parts.patience_s)
        state = await self.load(tenant_id)
        if state.phase == "idle" or state.position != before.position:
            return None
        log.info("retention goes on with a plan", tenant_id=tenant_id, phase=state.phase)
        return await self._finish(state)

    async def _finish(self, state: RetentionOf) -> RetentionApplied | None:
        """See a plan through; `None` when another process does, or the archive is not here."""
        parts = self._parts
        try:
            if state.phase == "planned":
                # In this time whoever follows the log reads the plan, and so all that lies before.
                await asyncio.sleep(parts.grace_s)
                while parts.readers.is_held_off():  # noqa: ASYNC110 - beats that stay away
                    await asyncio.sleep(HELD_S)
                if not await self._is_archived(state):
                    return None
                await self._append(state, state.begin(parts.moment()))
            parts.crash_point("retention.after_begun")
            await self._remove(state)
            parts.crash_point("retention.after_removed")
            events = state.finish(parts.moment())
            await self._append(state, events)
        except AppendConflictError:
            return None
        applied = events[0].payload
        assert isinstance(applied, RetentionApplied)  # noqa: S101 - what `finish` returns
        parts.metrics.applied(applied)
        log.info(
            "retention let go",
            tenant_id=state.ref.tenant_id,
            kind=applied.kind,
            items=applied.items,
            archive=applied.archive,
        )
        return applied

    async def _is_archived(self, state: RetentionOf) -> bool:
        """Look at the file once more: nothing is removed on the word of an earlier process."""
        plan, archives = state.plan, self._parts.archives
        if plan is None or plan.archive is None:
            return True
        if archives is not None and await archives.holds(plan.archive):
            return True
        why = f"the archive {plan.archive.name} is not here as it was written: nothing is removed"
        self._waits(state.ref.tenant_id, why)
        return False

    def _waits(self, tenant_id: str, why: str) -> None:
        self.waiting[tenant_id] = why
        self._parts.metrics.failures.inc()
        log.warning("retention waits", tenant_id=tenant_id, reason=why)

    async def _remove(self, state: RetentionOf) -> None:
        parts, plan = self._parts, state.plan
        for number, stream in enumerate(plan.streams if plan else ()):
            ref = StreamRef(state.ref.tenant_id, stream.kind, stream.id)
            await parts.log.purge(ref, through=stream.through)
            if number == 0:
                parts.crash_point("retention.after_first_removed")
            await asyncio.sleep(parts.pace_s)

    async def _append(self, state: RetentionOf, events: Sequence[Event]) -> None:
        """Write events, and fold them into `state`."""
        commit = make_commit(state.ref, events, self._parts.new_id, base=state.plan_position)
        position = await self._parts.log.append(commit, expected=state.position)
        for event in events:
            state.evolve(event)
        state.position = position
        if state.phase == "planned":
            state.plan_position = position
