"""The ledger desks: concurrent reservations and settlements are decided and written in batches."""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from agentos.domain.admission.admission import Decision
from agentos.domain.admission.events import Resource
from agentos.domain.admission.ledger import Ask, Budget, End, Ledger, ledger_ref
from agentos.domain.aggregate import FoldError, Moment
from agentos.domain.auth import SYSTEM_PRINCIPAL
from agentos.domain.envelope import NO_TRACE, Origin
from agentos.domain.errors import AgentOSError, AppendConflictError, InternalError
from agentos.domain.log import make_commit
from agentos.domain.ports import Clock, EventLog, NewId
from agentos.domain.tenant.quotas import Quotas
from agentos.handlers.balanced import catch_up

BATCH: Final = 256
FORGOTTEN_MS: Final = {"models": 900_000, "storage": 900_000, "tools": 60_000}
MICRO: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Turn:
    """What one caller wants of a ledger, all decided in one batch."""

    asks: Sequence[Ask]
    ends: Sequence[End]
    budgets: Sequence[Budget]
    done: asyncio.Future[dict[str, AgentOSError]]


class LedgerDesk:
    """One ledger: memory, a queue of turns, and the one task that commits."""

    def __init__(self, desks: "LedgerDesks", tenant_id: str, resource: Resource) -> None:
        self._desks = desks
        self.ledger = Ledger(ledger_ref(tenant_id, resource))
        self._turns: list[Turn] = []
        self._task: asyncio.Task[None] | None = None
        self._loaded = False

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits here."""
        return not self._turns and (self._task is None or self._task.done())

    async def take(
        self, asks: Sequence[Ask], ends: Sequence[End], budgets: Sequence[Budget]
    ) -> dict[str, AgentOSError]:
        """End holds and reserve; returns why which asks were refused, once it is durable."""
        done = asyncio.get_running_loop().create_future()
        self._turns.append(Turn(asks, ends, budgets, done))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work())
        refused: dict[str, AgentOSError] = await done
        return refused

    def forgotten(self, now_ms: int) -> list[End]:
        """Return the ends of holds that nobody settled in time: their worst case stands."""
        old = now_ms - FORGOTTEN_MS[self.ledger.resource]
        return [End(i, None) for i, hold in self.ledger.holds.items() if hold.reserved_at < old]

    async def load(self) -> None:
        """Fold what the log has, from the last balance on."""
        await catch_up(self._desks.log, self.ledger)
        self._loaded = True

    async def _work(self) -> None:
        while self._turns:
            turns, self._turns = self._turns[:BATCH], self._turns[BATCH:]
            try:
                refused = await self._decide(turns)
            except (AgentOSError, FoldError) as error:
                self._loaded = False
                self._fail(turns, error)
            else:
                for turn in turns:
                    ids = [ask.hold_id for ask in turn.asks if ask.hold_id in refused]
                    if not turn.done.done():
                        turn.done.set_result({i: refused[i] for i in ids})

    def _fail(self, turns: Sequence[Turn], error: Exception) -> None:
        if isinstance(error, FoldError):
            error = InternalError("the tenant's ledger cannot be read")
        for turn in turns:
            if not turn.done.done():
                turn.done.set_exception(error)

    async def _decide(self, turns: Sequence[Turn]) -> dict[str, AgentOSError]:
        asks = [ask for turn in turns for ask in turn.asks]
        ends = [end for turn in turns for end in turn.ends]
        read_on = False
        while True:
            if not self._loaded:
                await self.load()
            decision = self.ledger.decide(asks, ends, turns[-1].budgets, self._desks.moment())
            if decision.refused and not read_on:
                await self.load()
                read_on = True
            elif await self._write(decision):
                return decision.refused

    async def _write(self, decision: Decision) -> bool:
        if not decision.events:
            return True
        ledger = self.ledger
        commit = make_commit(ledger.ref, decision.events, self._desks.new_id, base=ledger.base)
        try:
            position = await self._desks.log.append(commit, expected=ledger.position)
        except AppendConflictError:
            await self.load()
            return False
        ledger.written(decision.events, position)
        return True


class LedgerDesks:
    """The ledgers that were asked for lately; an idle one is dropped when there are too many."""

    def __init__(self, log: EventLog, clock: Clock, new_id: NewId, keep: int = 20_000) -> None:
        self.log = log
        self.new_id = new_id
        self._clock = clock
        self._keep = keep
        self._desks: OrderedDict[tuple[str, Resource], LedgerDesk] = OrderedDict()

    def moment(self) -> Moment:
        """Return the moment of a decision made now."""
        return Moment(self._clock.now_ms(), self.new_id, Origin(NO_TRACE, SYSTEM_PRINCIPAL))

    def desk(self, tenant_id: str, resource: Resource) -> LedgerDesk:
        """Return the desk of one ledger."""
        key = (tenant_id, resource)
        if key not in self._desks:
            self._desks[key] = LedgerDesk(self, tenant_id, resource)
            oldest = next(iter(self._desks))
            if len(self._desks) > self._keep and self._desks[oldest].is_idle:
                del self._desks[oldest]
        self._desks.move_to_end(key)
        return self._desks[key]

    async def expire(self) -> None:
        """Settle at their worst case what nobody settled in time."""
        now = self._clock.now_ms()
        for desk in list(self._desks.values()):
            if forgotten := desk.forgotten(now):
                await desk.take((), forgotten, ())


def budgets_of(limits: Quotas, resource: Resource) -> list[Budget]:
    """Return what a tenant's quotas allow of a resource; none is no limit."""
    if resource == "tools" and limits.tools and limits.tools.tool_calls_per_minute is not None:
        return [Budget("minute", "calls", limits.tools.tool_calls_per_minute)]
    if resource == "storage" and limits.storage and limits.storage.max_memory_bytes is not None:
        return [Budget("ever", "bytes", limits.storage.max_memory_bytes)]
    budgets: list[Budget] = []
    if resource == "models" and limits.models is not None:
        if limits.models.max_requests_per_minute is not None:
            budgets.append(Budget("minute", "requests", limits.models.max_requests_per_minute))
        if (budget := limits.models.token_budget) is not None:
            if budget.max_tokens is not None:
                budgets.append(Budget(budget.window, "tokens", budget.max_tokens))
            if budget.max_cost_usd is not None:
                limit = int(budget.max_cost_usd * MICRO)
                budgets.append(Budget(budget.window, "micro_usd", limit))
    return budgets
