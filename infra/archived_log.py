"""A log with what retention let go in its place: for whoever reads it from the beginning."""

import asyncio
import heapq
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Final, cast

from agentos.domain.archive import ArchiveError
from agentos.domain.log import Recorded, TailBatch
from agentos.domain.retention.retention import RetentionPlanned
from agentos.domain.retention.rules import Kind
from agentos.domain.subjects import StreamRef
from agentos.infra.archive import ArchiveReader
from agentos.infra.jetstream.connection import Connection
from agentos.infra.jetstream.log import JetStreamLog
from agentos.infra.retention import ArchiveDirectory
from agentos.infra.whole_read import all_begun

BATCH: Final = 512
HOLDS: Final[dict[Kind, frozenset[str]]] = {
    "runs": frozenset({"run"}),
    "remote_runs": frozenset({"remote", "ingest"}),
    "usage": frozenset({"usage"}),
    "quota": frozenset({"quota"}),
}
"""Of which aggregates what goes by a plan of a kind is."""


class NotArchivedError(Exception):
    """Something went that no archive has here; the message names it and says what to do."""


class ArchivedLog(JetStreamLog):
    """The log, with what went at the positions that it had, in tails and in reads of one aggregate.

    `on_use` is told the name of each archive that a read of one aggregate takes it from.
    """

    def __init__(
        self,
        connection: Connection,
        directory: ArchiveDirectory | None,
        on_use: Callable[[str], None] = lambda _: None,
    ) -> None:
        super().__init__(connection)
        self._directory = directory
        self._on_use = on_use
        self._begun: list[tuple[str, RetentionPlanned]] = []
        self.missing: list[str] = []
        """What went that cannot be shown, a sentence each."""

    async def open(self) -> None:
        """Learn what went, and where it is."""
        self._begun = await all_begun(self)
        self.missing = []
        for tenant_id, plan in self._begun:
            if plan.archive is None:
                self.missing.append(f"{plan.items} {plan.kind} of {tenant_id} went nowhere")
            elif self._path(plan) is None:
                self.missing.append(f"{plan.archive.name} is not in the archive directory")

    async def require_unchanged(self) -> None:
        """Raise `NotArchivedError` when something went since `open`."""
        if len(await all_begun(self)) != len(self._begun):
            raise NotArchivedError("retention let go of events meanwhile; begin anew")

    def _path(self, plan: RetentionPlanned) -> Path | None:
        if self._directory is None or plan.archive is None:
            return None
        path = self._directory.directory / plan.archive.name
        return path if path.is_file() else None

    async def read(self, ref: StreamRef, *, after: int = 0) -> list[Recorded]:
        """Return the aggregate's commits behind position `after`, also where all of it went."""
        records = await super().read(ref, after=after)
        if records:
            return records
        for tenant_id, plan in self._begun:
            if tenant_id == ref.tenant_id and any(
                (s.kind, s.id) == (ref.kind, ref.aggregate_id) for s in plan.streams
            ):
                path = self._path(plan)
                if path is not None:
                    self._on_use(path.name)
                    return await asyncio.to_thread(_only, path, ref, after)
        return records

    def tail(
        self,
        *,
        after: int,
        kinds: Sequence[str] = (),
        tenant_id: str | None = None,
        headers_only: bool = False,
    ) -> AsyncIterator[TailBatch]:
        """Read everything behind position `after`, also what went, then go on live."""
        live = super().tail(
            after=after, kinds=kinds, tenant_id=tenant_id, headers_only=headers_only
        )
        behind = [
            plan
            for of_tenant, plan in self._begun
            if plan.position > after
            and tenant_id in (None, of_tenant)
            and (not kinds or not HOLDS[plan.kind].isdisjoint(kinds))
        ]
        if headers_only or not behind:
            return live
        files = [(plan.first or 0, path) for plan in behind if (path := self._path(plan))]
        chosen = (r for r in archived(files, after) if not kinds or r.ref.kind in kinds)
        return merged_tail(live, chosen)


def _only(path: Path, ref: StreamRef, after: int) -> list[Recorded]:
    return [r for r in _records(path) if r.ref == ref and r.position > after]


async def merged_tail(
    live: AsyncIterator[TailBatch], old: Iterator[Recorded]
) -> AsyncIterator[TailBatch]:
    """Yield what a tail reads with the `old` commits in their places, in order."""
    async with aclosing(cast("AsyncGenerator[TailBatch]", live)) as batches:
        waiting = next(old, None)
        async for batch in batches:
            merged: list[Recorded] = []
            for record in batch.records:
                while waiting is not None and waiting.position < record.position:
                    merged.append(waiting)
                    waiting = next(old, None)
                    if len(merged) >= BATCH:
                        yield TailBatch(merged, caught_up=False)
                        merged = []
                merged.append(record)
            while waiting is not None and batch.caught_up:
                merged.append(waiting)
                waiting = next(old, None)
                if len(merged) >= BATCH:
                    yield TailBatch(merged, caught_up=False)
                    merged = []
            yield TailBatch(merged, batch.caught_up)


def archived(files: Sequence[tuple[int, Path]], after: int) -> Iterator[Recorded]:
    """Yield the commits of archives behind `after` in the order of the log, each once.

    `files` are first positions (0 where it is not known) and paths; a file is opened when its
    place has come, so few are open at a time. Raises `ArchiveError` for one that is damaged.
    """
    unopened = sorted(files, reverse=True)
    heap: list[tuple[int, int, Recorded, Iterator[Recorded]]] = []
    position = after
    while heap or unopened:
        while unopened and (not heap or unopened[-1][0] <= heap[0][0]):
            _push(heap, len(unopened), _records(unopened.pop()[1]))
        if not heap:
            continue
        _, number, record, rest = heapq.heappop(heap)
        _push(heap, number, rest)
        if record.position > position:
            position = record.position
            yield record


def _push(
    heap: list[tuple[int, int, Recorded, Iterator[Recorded]]], number: int, rest: Iterator[Recorded]
) -> None:
    if (record := next(rest, None)) is not None:
        heapq.heappush(heap, (record.position, number, record, rest))


def _records(path: Path) -> Iterator[Recorded]:
    reader = ArchiveReader(path)
    for chunk in reader.chunks():
        yield from chunk
    if not reader.is_complete:
        raise ArchiveError(f"{path} was broken off")
