"""The admission desk of each tenant: concurrent asks are decided and written as one batch."""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

import structlog

from agentos.domain.admission.admission import Admission, Decision, admission_ref
from agentos.domain.aggregate import FoldError, Moment
from agentos.domain.auth import SYSTEM_PRINCIPAL
from agentos.domain.envelope import NO_TRACE, Origin
from agentos.domain.errors import (
    AgentOSError,
    AppendConflictError,
    DependencyUnavailableError,
    InternalError,
    RateLimitedError,
)
from agentos.domain.log import make_commit
from agentos.domain.ports import Clock, EventLog, NewId
from agentos.domain.run.events import FINAL_TYPES
from agentos.domain.run.idempotency import RunKey, may_be_older
from agentos.domain.run.run import run_ref
from agentos.domain.tenant.quotas import RunLimits
from agentos.handlers.balanced import catch_up
from agentos.handlers.watch import LogWatch

BATCH: Final = 256
MAX_WAITING: Final = 10_000
FREE_DELAY_S: Final = 0.01
CACHED: Final = 20_000
logger = structlog.get_logger()


@dataclass(slots=True)
class Ask:
    """One run that wants a slot. A keyed run's id follows from the time of the decision."""

    limits: RunLimits
    done: asyncio.Future["Slot"]
    run_id: str = ""
    key: RunKey | None = None
    generation: int = 0
    may_be_older: bool = False

    def settle_id(self, time_ms: int, ttl_ms: int) -> str:
        """Return the run's id if it is decided at `time_ms`."""
        if self.key is not None:
            self.run_id = self.key.run_id(time_ms, self.generation)
            self.may_be_older = may_be_older(time_ms, ttl_ms)
        return self.run_id


@dataclass(frozen=True, slots=True)
class Slot:
    """What an ask came to: a slot for `run_id`, or why there is none.

    `is_new` says that this ask took the slot, `time_ms` when it was decided; `may_be_older`
    that the same key may have named a run in the epoch before.
    """

    run_id: str
    is_new: bool
    time_ms: int
    may_be_older: bool = False
    error: AgentOSError | None = None


class Desk:
    """One tenant's admission: memory, a queue of asks, and the one task that commits."""

    def __init__(self, desks: "AdmissionDesks", tenant_id: str) -> None:
        self._desks = desks
        self.admission = Admission(admission_ref(tenant_id))
        self.asks: list[Ask] = []
        self.freed: set[str] = set()
        self._task: asyncio.Task[None] | None = None
        self._later: asyncio.TimerHandle | None = None
        self._loaded = False

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits here."""
        return not self.asks and not self.freed and (self._task is None or self._task.done())

    def ask(self, ask: Ask) -> None:
        """Queue an ask; its future is set once the decision is durable."""
        if len(self.asks) >= MAX_WAITING:
            raise RateLimitedError("too many requests wait", retry_after_ms=1000)
        self.asks.append(ask)
        self._wake()

    def free(self, run_id: str) -> None:
        """Give a slot back, with the next batch; a slot that is not held frees nothing."""
        self.freed.add(run_id)
        if self._later is None:
            self._later = asyncio.get_running_loop().call_later(FREE_DELAY_S, self._wake)

    async def load(self) -> None:
        """Fold what the log has, from the last balance on."""
        await catch_up(self._desks.log, self.admission)
        self._loaded = True

    def _wake(self) -> None:
        if self._later is not None:
            self._later.cancel()
            self._later = None
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work())

    async def _work(self) -> None:
        while self.asks or self.freed:
            asks, self.asks = self.asks[:BATCH], self.asks[BATCH:]
            freed, self.freed = self.freed, set()
            try:
                await self._decide(asks, freed)
            except (AgentOSError, TimeoutError, FoldError) as error:
                self._give_up(asks, freed, error)
                return

    def _give_up(self, asks: list[Ask], freed: set[str], error: BaseException) -> None:
        """Whether the batch was written is unknown: ask the log before the next decision."""
        self._loaded = False
        self.freed |= freed
        if isinstance(error, TimeoutError):
            error = DependencyUnavailableError("the log is not read on", dependency="nats")
        elif isinstance(error, FoldError):
            logger.error("admission does not fold", error=str(error))
            error = InternalError("the tenant's admission cannot be read")
        for ask in asks + self.asks:
            if not ask.done.done():
                ask.done.set_exception(error)
        self.asks = []

    async def _decide(self, asks: list[Ask], freed: set[str]) -> None:
        read_on = False
        while True:
            if not self._loaded:
                await self.load()
            at = self._desks.moment()
            time = self.admission.later(at.now_ms)
            ids = [ask.settle_id(time, self._desks.ttl_ms) for ask in asks]
            limits = asks[-1].limits if asks else RunLimits()
            decision = self.admission.decide(ids, list(freed), limits, at)
            if decision.refused and not read_on:
                freed |= await self._read_on()
                read_on = True
                continue
            if await self._write(decision):
                self._answer(asks, decision, time)
                return

    async def _read_on(self) -> set[str]:
        """Nothing is refused from stale memory: return the slots whose runs have ended.

        The log itself is asked for the runs that this process does not know to be live: they
        may have ended before the desk was opened here, or in another process's hands.
        """
        await self._desks.watch.read_on()
        await self.load()
        freed, self.freed = self.freed, set()
        tenant, live = self.admission.ref.tenant_id, self._desks.watch.runs
        refs = [ref for i in self.admission.active if (ref := run_ref(tenant, i)) not in live]
        for ref, last in (await self._desks.log.last_many(refs)).items() if refs else ():
            if last.is_void or last.types[-1] in FINAL_TYPES:
                freed.add(ref.aggregate_id)
        return freed

    async def _write(self, decision: Decision) -> bool:
        if not decision.events:
            return True
        admission = self.admission
        commit = make_commit(
            admission.ref, decision.events, self._desks.new_id, base=admission.base
        )
        try:
            position = await self._desks.log.append(commit, expected=admission.position)
        except AppendConflictError:
            await self.load()
            return False
        admission.written(decision.events, position)
        return True

    def _answer(self, asks: list[Ask], decision: Decision, time: int) -> None:
        new = {
            run_id
            for event in decision.events
            if event.type == "agentos.quota.reserved"
            for run_id in event.payload.run_ids  # type: ignore[attr-defined]  # QuotaReserved
        }
        for ask in asks:
            if not ask.done.done():
                error = decision.refused.get(ask.run_id)
                slot = Slot(ask.run_id, ask.run_id in new, time, ask.may_be_older, error)
                ask.done.set_result(slot)


class AdmissionDesks:
    """The desks of all tenants that were asked for lately."""

    def __init__(
        self, log: EventLog, watch: LogWatch, clock: Clock, new_id: NewId, ttl_ms: int
    ) -> None:
        self.log = log
        self.watch = watch
        self.new_id = new_id
        self.ttl_ms = ttl_ms
        self._clock = clock
        self._desks: OrderedDict[str, Desk] = OrderedDict()

    def moment(self) -> Moment:
        """Return the moment of an admission decision made now."""
        return Moment(self._clock.now_ms(), self.new_id, Origin(NO_TRACE, SYSTEM_PRINCIPAL))

    def desk(self, tenant_id: str) -> Desk:
        """Return a tenant's desk."""
        desk = self._desks.get(tenant_id)
        if desk is None:
            desk = self._desks[tenant_id] = Desk(self, tenant_id)
            self._make_room()
        self._desks.move_to_end(tenant_id)
        return desk

    def _make_room(self) -> None:
        """Forget the desk that was asked for longest ago, if nothing is held or waits there."""
        oldest = next(iter(self._desks.values()))
        if len(self._desks) > CACHED and oldest.is_idle and not oldest.admission.active:
            self._desks.popitem(last=False)

    def loaded(self) -> list[Desk]:
        """Return the desks in memory."""
        return list(self._desks.values())

    async def reserve(
        self,
        tenant_id: str,
        limits: RunLimits,
        *,
        run_id: str = "",
        key: RunKey | None = None,
        generation: int = 0,
    ) -> Slot:
        """Ask for a slot; durable when this returns."""
        done: asyncio.Future[Slot] = asyncio.get_running_loop().create_future()
        self.desk(tenant_id).ask(Ask(limits, done, run_id, key, generation))
        return await done

    def on_final(self, tenant_id: str, run_id: str) -> None:
        """Policy: a run that ended gives its slot back."""
        desk = self._desks.get(tenant_id)
        if desk is not None:
            desk.free(run_id)
