"""What is due to go: read from the beginning of the log on, the oldest first."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final, cast

from agentos.domain.admission.admission import Admission, admission_ref
from agentos.domain.federation.ingest import ingest_ref
from agentos.domain.federation.remote import KIND as REMOTE
from agentos.domain.federation.remote import RemoteEnded, RemoteRun
from agentos.domain.log import Recorded, TailBatch
from agentos.domain.ports import Clock, EventLog
from agentos.domain.retention.due import EndedRun, ended_run, is_settled, run_due_at, time_of
from agentos.domain.retention.rules import Kind
from agentos.domain.run.events import FINAL_TYPES
from agentos.domain.subjects import StreamRef
from agentos.domain.usage.usage import Usage
from agentos.handlers.balanced import catch_up
from agentos.handlers.retention.batch import Batch
from agentos.handlers.retention.readers import Readers

PACE_S: Final = 0.002
"""Between two reads of the log: whoever waits for an answer goes first."""


@dataclass(frozen=True, slots=True)
class Passed:
    """Nothing up to `position` is due before `until` (epoch ms)."""

    position: int = 0
    until: float = float("inf")


@dataclass(frozen=True, slots=True)
class Ended:
    """One run that has ended, with everything that goes with it."""

    run: EndedRun
    records: Sequence[Recorded]


class Finder:
    """Finds what is due of a tenant. What it looked at and left is not looked at again too soon."""

    def __init__(
        self, log: EventLog, clock: Clock, readers: Readers, ttl_ms: int, pace_s: float = PACE_S
    ) -> None:
        self._log = log
        self._clock = clock
        self._readers = readers
        self._ttl_ms = ttl_ms
        self._pace_s = pace_s
        self._passed: dict[tuple[str, Kind, int], Passed] = {}

    async def find(self, tenant_id: str, kind: Kind, age_ms: int) -> Batch:
        """Return what is due of a kind, as much as goes together; empty when nothing is.

        Nothing is while somebody reads the log from the beginning.
        """
        if self._readers.is_held_off():
            return self._batch(kind, age_ms)
        match kind:
            case "runs":
                return await self._runs(tenant_id, age_ms)
            case "remote_runs":
                return await self._remote_runs(tenant_id, age_ms)
            case "usage":
                return await self._beginnings(tenant_id, kind, age_ms, Usage.KIND)
            case "quota":
                return await self._beginnings(tenant_id, kind, age_ms, Admission.KIND)

    def _batch(self, kind: Kind, age_ms: int) -> Batch:
        return Batch(kind, age_ms, self._clock.now_ms() - age_ms)

    async def _runs(self, tenant_id: str, age_ms: int) -> Batch:
        admission = Admission(admission_ref(tenant_id))
        await catch_up(self._log, admission)
        known_to = min(self._readers.projected(), await self._readers.audited(tenant_id))

        async def ended(last: Recorded) -> Ended | None:
            if last.ref.aggregate_id in admission.active:
                return None  # its slot is about to be given back
            records = await self._log.read(last.ref)
            try:
                run = ended_run(records)
            except (ValueError, KeyError, TypeError):
                return None  # a run that cannot be read stays where it can be looked at
            return None if run is None else Ended(run, records)

        ends = FINAL_TYPES.intersection
        return await self._whole(
            self._batch("runs", age_ms), (tenant_id, "run"), known_to, ends, ended
        )

    async def _remote_runs(self, tenant_id: str, age_ms: int) -> Batch:
        known_to = self._readers.projected()
        audited = await self._readers.audited(tenant_id)

        async def ended(last: Recorded) -> Ended | None:
            records = await self._log.read(last.ref)
            if not records or records[0].first_sequence != 1:
                return None
            linked, run_id = RemoteRun(last.ref).fold(records[:1]).linked, last.ref.aggregate_id
            pushed = await self._log.read(ingest_ref(tenant_id, linked.stack_id, run_id))
            if pushed and pushed[-1].position > audited:
                return None
            # Its forward is kept, and may be asked for again under its key.
            run = EndedRun(time_of(records[0]), time_of(records[-1]), is_keyed=True)
            return Ended(run, [*records, *pushed])

        ends = frozenset({RemoteEnded.TYPE}).intersection
        return await self._whole(
            self._batch("remote_runs", age_ms), (tenant_id, REMOTE), known_to, ends, ended
        )

    async def _whole(
        self,
        batch: Batch,
        which: tuple[str, str],
        known_to: int,
        ends: Callable[[Sequence[str]], frozenset[str]],
        ended: Callable[[Recorded], Awaitable[Ended | None]],
    ) -> Batch:
        """Collect whole runs whose last commit is in the log's first `known_to` positions."""
        tenant_id, kind = which
        now, key = self._clock.now_ms(), (tenant_id, batch.kind, batch.age_ms)
        passed = self._passed.get(key, Passed())
        if passed.until <= now:
            passed = Passed()
        position, until = passed.position, passed.until
        async for record in self._past(tenant_id, kind, position, known_to, headers_only=True):
            if record.is_void or not ends(record.types[-1:]):
                continue
            await asyncio.sleep(self._pace_s)
            found = await ended(record)
            if found is not None and found.run.ended_at > batch.before_ms:
                break  # what is behind it ended later still
            due = now + 1 if found is None else run_due_at(found.run, batch.age_ms, self._ttl_ms)
            if found is not None and due <= now:
                batch.add(found.records)
                if batch.is_full:
                    break
            elif not batch:
                position = record.position
                until = min(until, due)
        self._passed[key] = Passed(position, until)
        return batch

    async def _beginnings(self, tenant_id: str, name: Kind, age_ms: int, kind: str) -> Batch:
        """Collect the oldest commits of long-lived aggregates, those that no fold needs."""
        batch, bases = self._batch(name, age_ms), await self._bases(tenant_id, kind)
        end = max(bases.values(), default=0) - 1
        if kind == Usage.KIND:
            read = min(self._readers.projected(), await self._readers.audited(tenant_id))
            end = min(end, read)
        done: set[StreamRef] = set()
        async for record in self._past(tenant_id, kind, 0, end):
            if record.ref in done:
                continue
            if not is_settled(record, bases[record.ref], batch.before_ms):
                done.add(record.ref)  # only a beginning goes, without a hole
            else:
                batch.add([record], len(record.types))
            if batch.is_full or len(done) == len(bases):
                break
        return batch

    async def _bases(self, tenant_id: str, kind: str) -> dict[StreamRef, int]:
        """Return from where on each aggregate of a kind can be folded."""
        lasts = await self._log.last_of_kind(kind, tenant_id)
        # A next batch of usage needs the last one alone; a quota's state is in its balance.
        return {r.ref: r.position if kind == Usage.KIND else r.base for r in lasts}

    async def _past(
        self, tenant_id: str, kind: str, after: int, end: int, *, headers_only: bool = False
    ) -> AsyncGenerator[Recorded]:
        """Yield a tenant's commits of a kind behind `after`, up to and with position `end`."""
        if after >= end:
            return
        tail = self._log.tail(
            after=after, kinds=(kind,), tenant_id=tenant_id, headers_only=headers_only
        )
        async with aclosing(cast("AsyncGenerator[TailBatch]", tail)) as batches:
            async for batch in batches:
                for record in batch.records:
                    if record.position > end:
                        return
                    yield record
                if batch.caught_up:
                    return
                await asyncio.sleep(self._pace_s)
