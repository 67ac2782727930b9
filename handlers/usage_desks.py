"""The usage desks: batches of ended model calls, written in company, each once."""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from agentos.domain.aggregate import FoldError, Moment
from agentos.domain.auth import SYSTEM_PRINCIPAL
from agentos.domain.envelope import NO_TRACE, Origin
from agentos.domain.errors import (
    AgentOSError,
    AppendConflictError,
    InternalError,
    PayloadTooLargeError,
    TimedOutError,
)
from agentos.domain.log import Commit, Recorded, make_commit
from agentos.domain.ports import Clock, EventLog, NewId
from agentos.domain.usage.usage import Usage, UsageRecorded, usage_ref

TOGETHER: Final = 4
MOST_BYTES: Final = 900 * 1024
RACES: Final = 100
KNOWN: Final = 4096
BETWEEN: Final = ","


@dataclass(frozen=True, slots=True)
class Turn:
    """One batch that waits to be written."""

    batch_id: str
    calls: Sequence[tuple[UsageRecorded, Origin]]
    after: int
    done: asyncio.Future[int]


class UsageDesk:
    """One tenant's usage: its end, the batches of lately, and the one task that commits.

    Every batch written behind the position `_since` is in `_known`, with its position.
    """

    def __init__(self, desks: "UsageDesks", tenant_id: str) -> None:
        self._desks = desks
        self._usage = Usage(usage_ref(tenant_id))
        self._known: OrderedDict[str, int] = OrderedDict()
        self._since = -1
        self._turns: list[Turn] = []
        self._task: asyncio.Task[None] | None = None

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits here."""
        return not self._turns and (self._task is None or self._task.done())

    async def take(
        self, batch_id: str, calls: Sequence[tuple[UsageRecorded, Origin]], after: int
    ) -> int:
        """Write a batch; returns its position."""
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._turns.append(Turn(batch_id, calls, after, done))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work())
        return await done

    async def _work(self) -> None:
        while self._turns:
            turns, self._turns = self._turns[:TOGETHER], self._turns[TOGETHER:]
            try:
                await self._write(turns)
            except (AgentOSError, FoldError) as error:
                self._since = -1
                self._fail(turns, error)

    def _fail(self, turns: Sequence[Turn], error: Exception) -> None:
        if isinstance(error, FoldError):
            error = InternalError("the tenant's usage cannot be read")
        for turn in turns:
            if not turn.done.done():
                turn.done.set_exception(error)

    async def _write(self, turns: Sequence[Turn]) -> None:
        for _ in range(RACES):
            await self._know(min(turn.after for turn in turns))
            fresh = {turn.batch_id: turn for turn in turns if turn.batch_id not in self._known}
            try:
                if fresh:
                    await self._append(list(fresh.values()))
            except AppendConflictError:
                self._read(await self._desks.log.read(self._usage.ref, after=self._usage.position))
                continue
            for turn in turns:
                if turn.batch_id in self._known and not turn.done.done():
                    turn.done.set_result(self._known[turn.batch_id])
            if turns := [turn for turn in turns if not turn.done.done()]:
                continue
            return
        raise TimedOutError("the tenant's usage grows too fast; try again")

    async def _append(self, fresh: list[Turn]) -> None:
        """Append as many of these as one commit takes, at least the first."""
        while True:
            commit = self._commit(fresh)
            if len(commit.body) <= MOST_BYTES:
                break
            if len(fresh) == 1:
                limit = MOST_BYTES
                error = PayloadTooLargeError("the batch is larger than a commit", limit=limit)
                self._fail(fresh, error)
                return
            fresh = fresh[: len(fresh) // 2]
        position = await self._desks.log.append(commit, expected=self._usage.position)
        self._usage.position = position
        self._usage.sequence = commit.last_sequence
        self._note(commit, position)

    def _commit(self, turns: Sequence[Turn]) -> Commit:
        calls = [call for turn in turns for call in turn.calls]
        events = self._usage.record(calls, self._desks.moment())
        self._usage.time = events[-1].time
        batches = BETWEEN.join(turn.batch_id for turn in turns)
        return make_commit(self._usage.ref, events, self._desks.new_id, command_id=batches)

    async def _know(self, after: int) -> None:
        """Learn which batches were written behind a position."""
        ref, log = self._usage.ref, self._desks.log
        if self._since < 0:
            self._known.clear()
            self._usage = Usage(ref)
            last = await log.last(ref)
            self._since = 0 if last is None else last.position - 1
            self._read([last] if last else [])
        if after < self._since:
            for record in await log.read(ref, after=after):
                self._note(record, record.position)
            self._since = after

    def _read(self, records: Sequence[Recorded]) -> None:
        self._usage.fold(records)
        for record in records:
            self._note(record, record.position)

    def _note(self, commit: Commit, position: int) -> None:
        for batch_id in commit.command_id.split(BETWEEN):
            self._known[batch_id] = position
        while len(self._known) > KNOWN:
            _, forgotten = self._known.popitem(last=False)
            self._since = max(self._since, forgotten)


class UsageDesks:
    """The desks of tenants that called models lately; idle ones go when there are too many."""

    def __init__(self, log: EventLog, clock: Clock, new_id: NewId, keep: int = 5_000) -> None:
        self.log = log
        self.new_id = new_id
        self._clock = clock
        self._keep = keep
        self._desks: OrderedDict[str, UsageDesk] = OrderedDict()

    def moment(self) -> Moment:
        """Return the moment of a commit made now."""
        return Moment(self._clock.now_ms(), self.new_id, Origin(NO_TRACE, SYSTEM_PRINCIPAL))

    def desk(self, tenant_id: str) -> UsageDesk:
        """Return a tenant's desk."""
        if tenant_id not in self._desks:
            self._desks[tenant_id] = UsageDesk(self, tenant_id)
            oldest = next(iter(self._desks))
            if len(self._desks) > self._keep and self._desks[oldest].is_idle:
                del self._desks[oldest]
        self._desks.move_to_end(tenant_id)
        return self._desks[tenant_id]
