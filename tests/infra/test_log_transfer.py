"""A log that was taken over: whoever works on it goes on as if it had always been there."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from agentos.domain.archive import ArchiveError
from agentos.domain.log import Commit, Recorded, TailBatch
from agentos.domain.run.run import run_ref
from agentos.infra import log_transfer
from agentos.infra.archive import ArchiveReader, ArchiveWriter
from agentos.infra.log_transfer import export_log, head_of, import_log
from agentos.infra.memory.log import MemoryLog
from tests.handlers.auditor.audited import audit_all, checkpoints_of, records_of, sign, verdict
from tests.handlers.node import Node, a_node, cancel, create


def nothing(count: int, head: int) -> None:
    """Nobody watches."""


async def archived(log: MemoryLog, file: Path) -> None:
    """Put a log into an archive."""
    writer = ArchiveWriter.open(file, await head_of(log))
    await export_log(log, writer, nothing)
    writer.close()


async def taken_over(log: MemoryLog, file: Path) -> MemoryLog:
    """Return a new log with all that an archive of a log holds."""
    await archived(log, file)
    there = MemoryLog()
    await import_log(there, ArchiveReader(file), nothing)
    return there


async def runs_of(node: Node, count: int) -> list[str]:
    """Make some runs that are canceled."""
    parts = await node.handlers()
    made = [(await create(parts))["run"]["run_id"] for _ in range(count)]
    for run_id in made:
        await cancel(parts, run_id)
    return made


class WatchedLog(MemoryLog):
    """A log that says when somebody begins to read it."""

    is_read = False

    def tail(self, **which: Any) -> AsyncIterator[TailBatch]:
        self.is_read = True
        return super().tail(**which)


class WatchedReader(ArchiveReader):
    """A reader that knows how much was read of the archive before the log was looked at."""

    log: WatchedLog
    held = 0

    def chunks(self) -> Iterator[list[Recorded]]:
        for chunk in super().chunks():
            self.held += 0 if self.log.is_read else len(chunk)
            yield chunk


async def test_an_import_that_goes_on_holds_no_more_than_a_piece(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_transfer, "CHUNK_RECORDS", 10)
    source, file = MemoryLog(), tmp_path / "log.gz"
    commits = [Commit(run_ref("tnt_a", f"run_{n}"), f"cmt_{n}", 1, (), b"") for n in range(100)]
    there = WatchedLog()
    for number, commit in enumerate(commits):
        await source.append(commit, expected=0)
        if number < 90:
            await there.append(commit, expected=0)
    await archived(source, file)
    reader = WatchedReader(file)
    reader.log = there
    await import_log(there, reader, nothing)
    assert await there.head() == 100
    assert reader.held <= 10
    # Another log's archive, and one that is shorter than the log, are none to go on with.
    for taken in (commits[:50], [*commits[1:], commits[0]]):
        other = MemoryLog()
        for commit in taken:
            await other.append(commit, expected=0)
        file = tmp_path / f"{len(taken)}.gz"
        await archived(other, file)
        with pytest.raises(ArchiveError, match="not empty"):
            await import_log(there, ArchiveReader(file), nothing)


async def test_the_auditor_goes_on_and_signs_whatever_the_positions_are(tmp_path: Path) -> None:
    async with a_node() as node:
        await node.tenant()
        gone = await runs_of(node, 10)
        await sign(await audit_all(node.log))
        await sign(await audit_all(node.log))
        assert await checkpoints_of(node.log, "tnt_a")
        # What retention let go leaves gaps, which the new log does not have.
        for run_id in gone:
            await node.log.purge(run_ref("tnt_a", run_id), through=await node.log.head())
        log = await taken_over(node.log, tmp_path / "log.gz")
    assert await log.head() < await node.log.head()
    signed = len(await checkpoints_of(log, "tnt_a"))
    async with a_node(log) as node:
        await runs_of(node, 3)
        for _ in range(2):
            await sign(await audit_all(log))
    assert len(await checkpoints_of(log, "tnt_a")) == signed + 1
    records = await records_of(log, "tnt_a")
    assert len(records) == 2 + 3 * 13
    found = (await verdict(log, "tnt_a")).view()
    assert (found["ok"], found["signed_to"]) == (True, len(records))


async def test_a_second_transfer_is_as_good_as_the_first(tmp_path: Path) -> None:
    async with a_node() as node:
        await node.tenant()
        gone = await runs_of(node, 4)
        await sign(await audit_all(node.log))
        await node.log.purge(run_ref("tnt_a", gone[0]), through=await node.log.head())
        once = await taken_over(node.log, tmp_path / "1.gz")
    async with a_node(once) as node:
        more = await runs_of(node, 2)
        await sign(await audit_all(once))
        await once.purge(run_ref("tnt_a", more[0]), through=await once.head())
        twice = await taken_over(once, tmp_path / "2.gz")
    async with a_node(twice) as node:
        await runs_of(node, 1)
        await sign(await audit_all(twice))
    found = (await verdict(twice, "tnt_a")).view()
    assert (found["ok"], found["signed_to"]) == (True, 2 + 3 * 7)
