"""A long log in little time: copies of a run that the node itself has just executed.

Every copy has ids of its own; types, sizes and commits are the real ones. The tenant's
admission is written beside them, by its own aggregate, a batch of runs at a time.
"""

import asyncio
import re
import time
from collections.abc import Sequence
from typing import Final

from agentos.domain.admission.admission import Admission, admission_ref
from agentos.domain.aggregate import Moment
from agentos.domain.auth import SYSTEM_PRINCIPAL
from agentos.domain.envelope import Origin
from agentos.domain.log import Commit, Recorded, make_commit
from agentos.domain.run.run import run_ref
from agentos.domain.subjects import StreamRef
from agentos.domain.tenant.quotas import RunLimits
from agentos.domain.times import rfc3339
from agentos.infra.clock import SystemIds
from agentos.infra.jetstream.log import JetStreamLog

ID: Final = re.compile(rb"(?:run|evt|stp|req|corr)_[0-9A-Z]{26}")
TIME: Final = re.compile(rb'(?<="time":")[^"]+')
BATCH: Final = 250


class Template:
    """A finished run's commits, cut at every id and time."""

    def __init__(self, records: Sequence[Recorded]) -> None:
        self._records = records
        self.events = sum(len(record.types) for record in records)
        self._run_id = records[0].ref.aggregate_id.encode()
        self._tenant = records[0].ref.tenant_id
        cut = re.compile(rb"(%b|%b)" % (ID.pattern, TIME.pattern))
        self._bodies = [cut.split(record.body) for record in records]
        self._old = {part for body in self._bodies for part in body[1::2] if ID.fullmatch(part)} - {
            self._run_id
        }

    def copy(self, new_id: SystemIds, now: bytes) -> list[Commit]:
        """Return the commits of another run that went the same way."""
        run_id = new_id("run")
        new = {old: new_id(old.partition(b"_")[0].decode()).encode() for old in self._old}
        new[self._run_id] = run_id.encode()
        ref = run_ref(self._tenant, run_id)
        return [
            self._commit(record, ref, body, new, now, new_id("cmt"))
            for record, body in zip(self._records, self._bodies, strict=True)
        ]

    def _commit(
        self,
        record: Recorded,
        ref: StreamRef,
        body: list[bytes],
        new: dict[bytes, bytes],
        now: bytes,
        commit_id: str,
    ) -> Commit:
        parts = list(body)
        parts[1::2] = [new.get(part, now) for part in body[1::2]]
        return Commit(
            ref,
            commit_id,
            record.first_sequence,
            record.types,
            b"".join(parts),
            record.command_id,
            record.causation_id,
            record.lease,
            0,
            record.priority,
        )


async def take_template(log: JetStreamLog, tenant_id: str, run_id: str) -> Template:
    """Cut a template from a finished run in the log."""
    return Template(await log.read(run_ref(tenant_id, run_id)))


async def newest_run(log: JetStreamLog, tenant_id: str) -> str:
    """Return the id of a tenant's run that is in the log."""
    records = await log.last_of_kind("run", tenant_id)
    return records[-1].ref.aggregate_id


class History:
    """Writes finished runs into a log that nobody else writes to meanwhile."""

    def __init__(self, log: JetStreamLog, tenant_id: str, template: Template) -> None:
        self._log, self._template = log, template
        self._new_id = SystemIds()
        self._admission = Admission(admission_ref(tenant_id))

    async def lay(self, runs: int) -> int:
        """Write so many runs; returns how many events that were, the quota's not counted."""
        await self._load()
        for start in range(0, runs, BATCH):
            now_ms = time.time_ns() // 1_000_000
            now = rfc3339(now_ms).encode()
            size = min(BATCH, runs - start)
            copies = [self._template.copy(self._new_id, now) for _ in range(size)]
            names = [copy[0].ref.aggregate_id for copy in copies]
            await self._quota(names, [], now_ms)
            await asyncio.gather(*(self._write(copy) for copy in copies))
            await self._quota([], names, now_ms)
        return runs * self._template.events

    async def _load(self) -> None:
        ref = self._admission.ref
        last = await self._log.last(ref)
        after = last.base - 1 if last is not None and last.base else 0
        self._admission.catch_up(await self._log.read(ref, after=after))

    async def _write(self, commits: Sequence[Commit]) -> None:
        position = 0
        for commit in commits:
            position = await self._log.append(commit, expected=position)

    async def _quota(self, asks: list[str], free: list[str], now_ms: int) -> None:
        origin = Origin("00-" + "0" * 32 + "-" + "0" * 16 + "-00", SYSTEM_PRINCIPAL)
        at = Moment(now_ms, self._new_id, origin)
        decision = self._admission.decide(asks, free, RunLimits(), at)
        base = self._admission.base
        commit = make_commit(self._admission.ref, decision.events, self._new_id, base=base)
        position = await self._log.append(commit, expected=self._admission.position)
        self._admission.written(decision.events, position)
