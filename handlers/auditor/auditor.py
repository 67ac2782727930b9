"""Follows the log and records every cause: the loop of the auditor process."""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from contextlib import aclosing
from typing import Final

import structlog

from agentos.domain.audit.causes import AUDITED, TAKES_RUN, entry_of
from agentos.domain.envelope import read_line
from agentos.domain.log import Recorded
from agentos.handlers.auditor.chains import Caused, Chains
from agentos.handlers.auditor.notary import Notary
from agentos.handlers.auditor.parts import AuditorParts
from agentos.handlers.auditor.runs import LiveRuns

PACE_S: Final = 0.01
"""At most so often a round of commits: what comes meanwhile shares the next one's."""
AT_ONCE: Final = 64
Work = dict[str, list[Caused]]
log = structlog.get_logger()


class Auditor:
    """One partition's auditor. Two at once do no harm: the lock of the chains is the judge."""

    def __init__(self, parts: AuditorParts, notary: Notary | None = None) -> None:
        self._parts = parts
        self._runs = LiveRuns(parts.log)
        self._room = asyncio.Semaphore(AT_ONCE)
        self.chains = Chains(parts)
        self.notary = notary or Notary(parts)
        self.position = 0
        self.caught_up = asyncio.Event()
        self._moved = asyncio.Event()

    async def resume(self) -> None:
        """Find out where to go on: behind what the last checkpoint says that all is recorded."""
        lasts = await self._parts.log.last_of_kind("audit")
        checkpoints = {r.ref.tenant_id: r for r in lasts if r.ref.aggregate_id == "checkpoints"}
        chains = [r for r in lasts if r.ref.aggregate_id == "chain"]
        self.position = max((r.base for r in checkpoints.values()), default=0)
        for last in chains:
            self.chains.known(last)
            await self.notary.resume(
                checkpoints.get(last.ref.tenant_id), last.ref.tenant_id, self.position
            )
        self.notary.base = self.position
        log.info("the auditor goes on", position=self.position, chains=len(chains))

    async def run(self) -> None:
        """Record until cancelled; `resume` comes first."""
        tail = self._parts.log.tail(after=self.position)
        async with aclosing(tail):  # type: ignore[type-var]  # an async generator
            async for batch in tail:
                if batch.records:
                    await self.take(batch.records)
                if batch.caught_up:
                    self.caught_up.set()
                    await asyncio.sleep(PACE_S)

    async def take(self, records: Sequence[Recorded]) -> None:
        """Record what a piece of the log causes; returns once all of it is durable."""
        work: Work = defaultdict(list)
        for record in records:
            if record.ref.kind == "audit":
                self.notary.saw(record)
            elif (caused := await self._caused(record)) is not None:
                work[record.ref.tenant_id].append(caused)
        await asyncio.gather(*(self._write(tenant, causes) for tenant, causes in work.items()))
        self.position = self.notary.base = records[-1].position
        self._parts.metrics.position.set(self.position)
        self._moved.set()
        self._moved = asyncio.Event()

    async def reach(self, position: int) -> None:
        """Wait until every cause up to `position` is recorded; somebody else runs it."""
        while self.position < position:
            await self._moved.wait()

    async def _write(self, tenant_id: str, causes: Sequence[Caused]) -> None:
        async with self._room:
            await self.chains.write(tenant_id, causes)

    async def _caused(self, record: Recorded) -> Caused | None:
        """Return the entries of a commit, `None` where it has none or they are recorded."""
        if record.ref.kind == "run":
            self._runs.follow(record)
        audited = [(at, name) for at, name in enumerate(record.types) if name in AUDITED]
        if not audited or record.position <= self.chains.covered(record.ref.tenant_id):
            return None
        run = None
        if any(name in TAKES_RUN for _, name in audited):
            run = await self._runs.at(record)
        lines = record.lines()
        entries = [entry_of(record, read_line(lines[at]), run) for at, _ in audited]
        return Caused(record.position, entries)
