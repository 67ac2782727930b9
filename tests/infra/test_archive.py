"""An archive is proved as it is read, and can be gone on with where it broke off."""

import gzip
from pathlib import Path

import pytest

from agentos.domain.archive import ArchiveError
from agentos.domain.log import Recorded
from agentos.domain.subjects import StreamRef
from agentos.infra.archive import ArchiveReader, ArchiveWriter

ABOUT = {"stack_id": "stk_a"}


def some(first: int, count: int) -> list[Recorded]:
    ref = StreamRef("tnt_a", "run", "run_1")
    return [
        Recorded(ref, f"cmt_{n}", n, ("agentos.x",), b'{"event":{"n":%d}}' % n, position=n)
        for n in range(first, first + count)
    ]


def write(path: Path, *chunks: list[Recorded], finish: bool = True) -> None:
    writer = ArchiveWriter.open(path, ABOUT)
    for chunk in chunks:
        writer.write(chunk)
    if finish:
        writer.finish()
    writer.close()


def read(path: Path) -> tuple[list[Recorded], ArchiveReader]:
    reader = ArchiveReader(path)
    return [record for chunk in reader.chunks() for record in chunk], reader


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write(path, some(1, 3), some(4, 2))
    records, reader = read(path)
    assert records == some(1, 5)
    assert (reader.is_complete, reader.number, reader.last) == (True, 2, 5)
    assert reader.about["stack_id"] == "stk_a"
    assert gzip.decompress(path.read_bytes()).count(b"\n") == 1 + 3 + 1 + 2 + 1 + 1


@pytest.mark.parametrize("cut", [1, 7, 40])
def test_a_broken_off_file_is_gone_on_with(tmp_path: Path, cut: int) -> None:
    whole, path = tmp_path / "whole", tmp_path / "a"
    write(whole, some(1, 3), some(4, 2))
    write(path, some(1, 3), finish=False)
    end = path.stat().st_size
    broken = path.read_bytes() + whole.read_bytes()[end : end + cut]
    path.write_bytes(broken)
    writer = ArchiveWriter.open(path, ABOUT)
    assert writer.last == 3
    writer.write(some(4, 2))
    writer.finish()
    writer.close()
    records, reader = read(path)
    assert records == some(1, 5)
    assert reader.is_complete
    with pytest.raises(ArchiveError, match="complete"):
        ArchiveWriter.open(path, ABOUT)


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write(path, some(1, 2), some(3, 1))
    good = path.read_bytes()
    for at in range(len(good)):
        flipped = bytearray(good)
        flipped[at] ^= 0x10
        path.write_bytes(bytes(flipped))
        try:
            records, reader = read(path)
        except ArchiveError:
            continue
        # Some bits of a gzip head mean nothing; else the file only ends early, and says so.
        assert not reader.is_complete or records == some(1, 3)


def test_a_chunk_that_is_missing_or_doubled_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write(path, finish=False)
    ends = [path.stat().st_size]
    for chunk in (some(1, 2), some(3, 2), some(5, 2)):
        writer = ArchiveWriter.open(path, ABOUT)
        writer.write(chunk)
        writer.close()
        ends.append(path.stat().st_size)
    data = path.read_bytes()
    parts = [data[a:b] for a, b in zip([0, *ends], ends, strict=False)]
    for order in ([0, 1, 3], [0, 1, 1, 2, 3], [0, 2, 1, 3]):
        path.write_bytes(b"".join(parts[number] for number in order))
        with pytest.raises(ArchiveError, match="missing or out of its place"):
            read(path)


@pytest.mark.parametrize("content", [b"", b"hello", gzip.compress(b'{"a": 1}\n', mtime=0)])
def test_another_file_is_no_archive(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a"
    path.write_bytes(content)
    with pytest.raises(ArchiveError):
        read(path)
