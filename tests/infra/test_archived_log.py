"""A log with what went in its place: the same commits in the same order, wherever they lie."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentos.domain.archive import ArchiveError
from agentos.domain.log import Recorded, TailBatch
from agentos.infra import archived_log
from agentos.infra.archive import ArchiveWriter
from agentos.infra.archived_log import archived, merged_tail
from agentos.infra.memory.log import MemoryLog
from agentos.infra.retention import ArchiveDirectory
from tests.contracts.logs import commit, past, run
from tests.domain.given import recorded


def records(positions: Sequence[int]) -> list[Recorded]:
    return [recorded(commit(run(f"r{at}")), at) for at in positions]


async def live(batches: Sequence[Sequence[int]]) -> AsyncIterator[TailBatch]:
    for at, positions in enumerate(batches):
        yield TailBatch(records(positions), caught_up=at == len(batches) - 1)


@given(data=st.data(), count=st.integers(0, 60), most=st.sampled_from([1, 3, 512]))
def test_wherever_commits_lie_all_come_in_order(data: st.DataObject, count: int, most: int) -> None:
    kept = data.draw(st.sets(st.integers(1, 60), max_size=count))
    gone = data.draw(st.sets(st.integers(1, 60), max_size=count)) - kept
    cuts = sorted(data.draw(st.sets(st.integers(0, 60), max_size=5)))
    edges = [0, *cuts, 60]
    batches = [[p for p in sorted(kept) if low < p <= high] for low, high in _pairs(edges)]

    async def read() -> tuple[list[int], list[bool]]:
        found, ends = [], []
        async for batch in merged_tail(live(batches), iter(records(sorted(gone)))):
            assert len(batch.records) <= max(most, *map(len, batches), 1) + most
            found += [record.position for record in batch.records]
            ends.append(batch.caught_up)
        return found, ends

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(archived_log, "BATCH", most)
        found, ends = asyncio.run(read())
    assert found == sorted(kept | gone)
    assert ends == [False] * (len(ends) - 1) + [True]


def _pairs(edges: list[int]) -> list[tuple[int, int]]:
    return list(itertools.pairwise(edges))


@pytest.mark.parametrize("after", [0, 4, 9])
async def test_archives_that_overlap_are_read_in_order_and_once(tmp_path: Path, after: int) -> None:
    directory = ArchiveDirectory(tmp_path)
    parts = {"a": (1, 3, 5, 9), "b": (2, 4, 5, 6), "c": (7, 8, 9)}
    files = []
    for name, positions in parts.items():
        await directory.write(f"{name}.log.gz", "ret_1", records(positions))
        known = positions[0] if name != "c" else 0  # where it begins may not be known
        files.append((known, tmp_path / f"{name}.log.gz"))
    assert [r.position for r in archived(files, after)] == list(range(after + 1, 10))


async def test_a_damaged_archive_is_never_read_as_a_shorter_one(tmp_path: Path) -> None:
    directory = ArchiveDirectory(tmp_path)
    await directory.write("a.log.gz", "ret_1", records(range(1, 50)))
    path = tmp_path / "a.log.gz"
    whole = path.read_bytes()
    for broken in (whole[:-30], whole[:200] + b"\0" + whole[201:]):
        path.write_bytes(broken)
        with pytest.raises(ArchiveError):
            list(archived([(1, path)], 0))


async def test_a_written_archive_is_what_it_says(tmp_path: Path) -> None:
    directory = ArchiveDirectory(tmp_path / "new" / "place")
    kept = records(range(1, 5))
    archive = await directory.write("a.log.gz", "ret_1", kept)
    assert await directory.holds(archive)
    assert list(archived([(1, directory.directory / "a.log.gz")], 0)) == kept
    assert (directory.missing([archive]), directory.unnamed([archive])) == ([], [])
    assert directory.unnamed([]) == ["a.log.gz"]
    await directory.discard("a.log.gz")
    assert not await directory.holds(archive)
    assert directory.missing([archive]) == ["a.log.gz"]


async def test_a_log_without_what_went_is_the_rest() -> None:
    log = MemoryLog()
    for name in "abc":
        await log.append(commit(run(name)), expected=0)
    gone = await log.read(run("b"))
    await log.purge(run("b"), through=2)
    merged = merged_tail(log.tail(after=0), iter(gone))
    assert [record.position for record in await past(merged)] == [1, 2, 3]


WRITE = ArchiveWriter.write


def _full(self: ArchiveWriter, records: Sequence[Recorded]) -> None:
    raise OSError("no space left on device")


def _less(self: ArchiveWriter, records: Sequence[Recorded]) -> None:
    WRITE(self, records[:1])


@pytest.mark.parametrize("broken", [_full, _less])
async def test_what_could_not_be_written_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: object
) -> None:
    directory = ArchiveDirectory(tmp_path)
    monkeypatch.setattr(ArchiveWriter, "write", broken)
    with pytest.raises((OSError, ArchiveError)):
        await directory.write("a.log.gz", "ret_1", records([1, 2]))
    assert directory.unnamed([]) == []
