"""A whole log into an archive, online, and out of one into a log that is empty."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing
from itertools import islice
from pathlib import Path
from typing import Any, Final, cast

from agentos.domain.archive import ArchiveError, Digest, Places
from agentos.domain.log import Recorded, TailBatch
from agentos.domain.ports import EventLog
from agentos.infra.archive import CHUNK_BYTES, CHUNK_RECORDS, ArchiveReader, ArchiveWriter
from agentos.infra.whole_read import all_begun

IN_FLIGHT: Final = 256
LET_GO: Final = "let_go"
Report = Callable[[int, int], None]


async def export_log(log: EventLog, writer: ArchiveWriter, report: Report) -> None:
    """Write everything up to the log's head of now behind what the writer has, and its end.

    `report(position, head)` is told of each chunk. The node may go on meanwhile. Raises
    `ArchiveError` when retention let go of events since the archive was begun.
    """
    await _require_unchanged(log, writer)
    head = await log.head()
    if writer.last < head:
        kept: list[Recorded] = []
        size = 0
        async for record in _past(log, writer.last, head):
            kept.append(record)
            size += len(record.body)
            if len(kept) >= CHUNK_RECORDS or size >= CHUNK_BYTES:
                writer.write(kept)
                report(writer.last, head)
                kept, size = [], 0
        if kept:
            writer.write(kept)
            report(writer.last, head)
    await _require_unchanged(log, writer)
    writer.finish()


async def head_of(log: EventLog, **about: Any) -> dict[str, Any]:
    """Return what the head of an archive of a log says: how often retention let go until now."""
    return {**about, LET_GO: len(await all_begun(log))}


async def _require_unchanged(log: EventLog, writer: ArchiveWriter) -> None:
    if writer.about.get(LET_GO, 0) != len(await all_begun(log)):
        raise ArchiveError(
            "retention let go of events since this archive was begun: what it has is not the "
            "whole log any more; remove it and begin anew"
        )


async def import_log(log: EventLog, reader: ArchiveReader, report: Report) -> Places:
    """Write an archive's commits into a log that has nothing, or the archive's beginning.

    Positions are new, dense behind the log's start. Begun again it goes on where it stopped.
    Raises `ArchiveError` for a log that holds anything else, and for an archive that is damaged
    or broken off.
    """
    head, start = await log.head(), await log.start()
    places = Places(start)
    records = _flat(reader)
    # As it comes, one at a time: what is there may be all of a large log.
    await _compare(log, places, islice(records, max(0, head - start)), head)
    report(places.count, places.count)
    while batch := list(islice(records, IN_FLIGHT)):
        placed = [places.place(record) for record in batch]
        first = places.position - len(placed) + 1
        written = await asyncio.gather(
            *(log.append(commit, expected=expected) for commit, expected in placed)
        )
        if written != list(range(first, first + len(written))):
            raise ArchiveError("another writer is at work on this log; begin anew with no data")
        report(places.count, places.count)
    if not reader.is_complete:
        raise ArchiveError(
            f"the archive was broken off behind commit {places.count}; what is there was written"
        )
    return places


async def digest_log(log: EventLog) -> Digest:
    """Return the digest of a log's content: that of its archive, and of the log it came from."""
    digest = Digest()
    chunk: list[Recorded] = []
    async for record in _past(log, 0, await log.head()):
        chunk.append(record)
        if len(chunk) == CHUNK_RECORDS:
            _add(digest, chunk)
            chunk = []
    _add(digest, chunk)
    return digest


def verify_archive(path: Path) -> ArchiveReader:
    """Read an archive to its end; raises `ArchiveError` for one that is not whole."""
    reader = ArchiveReader(path)
    for _ in reader.chunks():
        pass
    if not reader.is_complete:
        raise ArchiveError(f"broken off behind commit {reader.digest.records}")
    return reader


def content_digest(path: Path) -> str:
    """Return the digest of an archive's content, as `digest_log` reckons it."""
    digest = Digest()
    records = _flat(ArchiveReader(path))
    while chunk := list(islice(records, CHUNK_RECORDS)):
        _add(digest, chunk)
    return digest.value


def _add(digest: Digest, chunk: Sequence[Recorded]) -> None:
    if chunk:
        digest.add(chunk)


def _flat(reader: ArchiveReader) -> Iterator[Recorded]:
    return (record for chunk in reader.chunks() for record in chunk)


async def _past(log: EventLog, after: int, head: int) -> AsyncGenerator[Recorded]:
    if after >= head:
        return
    tail = cast("AsyncGenerator[TailBatch]", log.tail(after=after))
    async with aclosing(tail) as batches:
        async for batch in batches:
            for record in batch.records:
                if record.position > head:
                    return
                yield record
            if batch.caught_up or (batch.records and batch.records[-1].position >= head):
                return


async def _compare(log: EventLog, places: Places, begun: Iterator[Recorded], head: int) -> None:
    """Take in what an earlier import wrote; `ArchiveError` when the log holds anything else."""
    async for record in _past(log, places.position, head):
        mine = next(begun, None)
        if mine is None or (mine.ref, mine.commit_id) != (record.ref, record.commit_id):
            raise ArchiveError("the log is not empty, and is no beginning of this archive")
        places.place(mine)
    if places.position != head:
        raise ArchiveError("the log is not empty, and is no beginning of this archive")
