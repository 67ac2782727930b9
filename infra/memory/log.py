"""The event log in memory, with the same behaviour as on JetStream."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import fields, replace
from typing import Final

from agentos.domain.errors import AppendConflictError, PayloadTooLargeError
from agentos.domain.log import Commit, Recorded, TailBatch
from agentos.domain.subjects import StreamRef, log_filter, log_subject

BATCH: Final = 512
MAX_COMMIT_BYTES: Final = 8 * 1024 * 1024


class MemoryLog:
    """One partition of the log in this process's memory, for as long as the object lives."""

    def __init__(self, partition: int = 0) -> None:
        self._partition = partition
        self._records: list[Recorded] = []
        self._purged: set[int] = set()
        self._streams: dict[StreamRef, list[Recorded]] = {}
        self._grown = asyncio.Event()

    async def start(self) -> int:
        """Return the position behind which commits begin."""
        return 0

    async def append(self, commit: Commit, *, expected: int) -> int:
        """Write `commit` if the aggregate's last position is `expected`; as `EventLog.append`."""
        log_subject(self._partition, commit.ref)
        if len(commit.body) > MAX_COMMIT_BYTES:
            raise PayloadTooLargeError(
                "the commit is larger than a message may be", limit=MAX_COMMIT_BYTES
            )
        stream = self._streams.get(commit.ref, [])
        if (stream[-1].position if stream else 0) != expected:
            behind = next((r for r in stream if r.position > expected), None)
            if behind is not None and _same(behind, commit):
                return behind.position
            raise AppendConflictError(f"{commit.ref} is not at {expected} any more")
        values = {field.name: getattr(commit, field.name) for field in fields(Commit)}
        recorded = Recorded(**values, position=len(self._records) + 1)
        self._records.append(recorded)
        self._streams.setdefault(commit.ref, stream).append(recorded)
        grown, self._grown = self._grown, asyncio.Event()
        grown.set()
        return recorded.position

    async def purge(self, ref: StreamRef, *, through: int) -> None:
        """Remove the aggregate's commits at or before position `through`; as `EventLog.purge`."""
        log_subject(self._partition, ref)
        stream = self._streams.get(ref, [])
        self._purged.update(r.position for r in stream if r.position <= through)
        kept = [record for record in stream if record.position > through]
        if kept:
            self._streams[ref] = kept
        else:
            self._streams.pop(ref, None)

    async def last(self, ref: StreamRef) -> Recorded | None:
        """Return the aggregate's last commit, or `None` if it has none."""
        log_subject(self._partition, ref)
        stream = self._streams.get(ref)
        return stream[-1] if stream else None

    async def last_many(self, refs: Sequence[StreamRef]) -> dict[StreamRef, Recorded]:
        """Return the last commits of those aggregates that have one."""
        found = {ref: await self.last(ref) for ref in refs}
        return {ref: record for ref, record in found.items() if record is not None}

    async def last_of_kind(self, kind: str, tenant_id: str | None = None) -> list[Recorded]:
        """Return the last commit of every aggregate of a kind, of one tenant or of all."""
        chosen = self._selection((kind,), tenant_id)
        lasts = (stream[-1] for stream in self._streams.values())
        return sorted((r for r in lasts if chosen(r)), key=lambda record: record.position)

    async def read(self, ref: StreamRef, *, after: int = 0) -> list[Recorded]:
        """Return the aggregate's commits behind position `after`, oldest first."""
        log_subject(self._partition, ref)
        return [record for record in self._streams.get(ref, ()) if record.position > after]

    async def tail(
        self,
        *,
        after: int,
        kinds: Sequence[str] = (),
        tenant_id: str | None = None,
        headers_only: bool = False,
    ) -> AsyncIterator[TailBatch]:
        """Read everything behind position `after`, then go on live; as `EventLog.tail`."""
        chosen = self._selection(kinds, tenant_id)
        position, first = after, True
        while True:
            grown = self._grown
            records: list[Recorded] = []
            while position < len(self._records):
                record = self._records[position]
                if chosen(record) and record.position not in self._purged:
                    if len(records) == BATCH:
                        break
                    records.append(replace(record, body=b"") if headers_only else record)
                position += 1
            if records or first:
                first = False
                yield TailBatch(records, position >= len(self._records))
            else:
                await grown.wait()

    async def head(self) -> int:
        """Return the position of the partition's last commit, 0 when it is empty."""
        return len(self._records)

    def _selection(self, kinds: Sequence[str], tenant_id: str | None) -> Callable[[Recorded], bool]:
        log_filter(self._partition, tenant_id, None)
        return lambda record: (
            (not kinds or record.ref.kind in kinds)
            and (tenant_id is None or record.ref.tenant_id == tenant_id)
        )


def _same(record: Recorded, commit: Commit) -> bool:
    return (record.commit_id, record.first_sequence) == (commit.commit_id, commit.first_sequence)
