"""The ledger desks: concurrent reservations and settlements are decided and written in batches."""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from agentos.domain.admission.budgets import Budget
from agentos.domain.admission.events import Hold, Resource
from agentos.domain.admission.ledger import Ask, End, Granted, Ledger, Part, ledger_ref
from agentos.domain.aggregate import FoldError, Moment
from agentos.domain.auth import SYSTEM_PRINCIPAL
from agentos.domain.envelope import NO_TRACE, Origin
from agentos.domain.errors import AgentOSError, AppendConflictError, InternalError
from agentos.domain.log import make_commit
from agentos.domain.ports import Clock, EventLog, NewId
from agentos.handlers.balanced import catch_up

BATCH: Final = 256
FORGOTTEN_MS: Final = {"models": 900_000, "storage": 900_000, "tools": 60_000}


@dataclass(frozen=True, slots=True)
class Turn:
    """What one caller wants of a ledger, all decided in one batch."""

    asks: Sequence[Ask]
    ends: Sequence[End]
    parts: Sequence[Part]
    budgets: Sequence[Budget]
    done: asyncio.Future["Taken"]


@dataclass(frozen=True, slots=True)
class Taken:
    """What each ask of a turn holds, or why it does not; durable.

    `leased`: blocks are out, of which somebody might give parts back.
    """

    holds: dict[str, Hold]
    refused: dict[str, AgentOSError]
    leased: bool = False


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
        self,
        asks: Sequence[Ask],
        ends: Sequence[End],
        budgets: Sequence[Budget],
        parts: Sequence[Part] = (),
    ) -> Taken:
        """Take parts back, end holds, and reserve; returns once it is durable."""
        done: asyncio.Future[Taken] = asyncio.get_running_loop().create_future()
        self._turns.append(Turn(asks, ends, parts, budgets, done))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work())
        return await done

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
                granted = await self._decide(turns)
            except (AgentOSError, FoldError) as error:
                self._loaded = False
                self._fail(turns, error)
            else:
                for turn in turns:
                    if not turn.done.done():
                        turn.done.set_result(self._taken(turn, granted))

    def _taken(self, turn: Turn, granted: Granted) -> Taken:
        ids = [ask.hold_id for ask in turn.asks]
        refused = {i: granted.refused[i] for i in ids if i in granted.refused}
        holds = {i: granted.holds[i] for i in ids if i in granted.holds}
        return Taken(holds, refused, bool(refused) and self.ledger.has_blocks)

    def _fail(self, turns: Sequence[Turn], error: Exception) -> None:
        if isinstance(error, FoldError):
            error = InternalError("the tenant's ledger cannot be read")
        for turn in turns:
            if not turn.done.done():
                turn.done.set_exception(error)

    async def _decide(self, turns: Sequence[Turn]) -> Granted:
        asks = [ask for turn in turns for ask in turn.asks]
        ends = [end for turn in turns for end in turn.ends]
        parts = [part for turn in turns for part in turn.parts]
        budgets = next((turn.budgets for turn in reversed(turns) if turn.asks), ())
        read_on = False
        while True:
            if not self._loaded:
                await self.load()
            decision = self.ledger.decide(asks, ends, budgets, self._desks.moment(), parts)
            if decision.refused and not read_on:
                await self.load()
                read_on = True
            elif await self._write(decision):
                return decision

    async def _write(self, decision: Granted) -> bool:
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
