"""Archives of a log on disk: gzip members that each stand alone, written one after the other."""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, Self

import orjson

from agentos.domain.archive import (
    FORMAT,
    NO_CHAIN,
    VERSION,
    ArchiveError,
    Digest,
    from_entry,
    to_entry,
)
from agentos.domain.log import Recorded

LEVEL: Final = 3
READ: Final = 1024 * 1024
MOST_CHUNK: Final = 256 * 1024 * 1024
GZIP: Final = 31
CHUNK_RECORDS: Final = 2000
CHUNK_BYTES: Final = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Member:
    """One gzip member: its lines, and where in the file it ends."""

    lines: list[bytes]
    end: int


class ArchiveWriter:
    """Writes an archive, a chunk at a time; each is on disk once `write` has returned."""

    def __init__(
        self, file: BinaryIO, about: Mapping[str, Any], digest: Digest, chunks: int, last: int
    ) -> None:
        self._file = file
        self.about = about
        self.digest = digest
        self.chunks = chunks
        self.last = last

    @classmethod
    def open(cls, path: Path, about: Mapping[str, Any]) -> Self:
        """Begin an archive, or go on behind the last whole chunk of one that was broken off.

        Raises `ArchiveError` for a file that is something else, or complete already.
        """
        if path.exists() and path.stat().st_size:
            return cls._resumed(path)
        path.touch(mode=0o600)  # everything that any tenant wrote is in it
        file = path.open("r+b")
        writer = cls(file, about, Digest(), 0, 0)
        writer._put([orjson.dumps({"archive": {"format": FORMAT, "version": VERSION, **about}})])
        return writer

    @classmethod
    def _resumed(cls, path: Path) -> Self:
        reader = ArchiveReader(path)
        for _ in reader.chunks():
            pass
        if reader.is_complete:
            raise ArchiveError(f"{path} is complete; name another file")
        file = path.open("r+b")
        file.truncate(reader.end)
        file.seek(reader.end)
        digest = Digest(reader.digest.value)
        digest.records = reader.digest.records
        return cls(file, reader.about, digest, reader.number, reader.last)

    def write(self, records: Sequence[Recorded]) -> None:
        """Write the commits as one chunk."""
        self.digest.add(records)
        self.chunks += 1
        self.last = records[-1].position
        trailer = {
            "number": self.chunks,
            "records": len(records),
            "last": self.last,
            "chain": self.digest.value,
        }
        self._put([*map(to_entry, records), orjson.dumps({"chunk": trailer})])

    def finish(self) -> None:
        """Write the end: without it the archive counts as broken off."""
        end = {"records": self.digest.records, "last": self.last, "chain": self.digest.value}
        self._put([orjson.dumps({"end": end})])

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _put(self, lines: Sequence[bytes]) -> None:
        packer = zlib.compressobj(LEVEL, zlib.DEFLATED, GZIP)
        self._file.write(packer.compress(b"\n".join(lines) + b"\n") + packer.flush())
        self._file.flush()


class ArchiveReader:
    """Reads an archive and proves it on the way; `about` is its head once reading has begun."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.about: dict[str, Any] = {}
        self.digest = Digest(NO_CHAIN)
        self.number = 0
        self.last = 0
        self.end = 0
        self.is_complete = False

    def chunks(self) -> Iterator[list[Recorded]]:
        """Yield the commits of each whole chunk; stops where the file was broken off.

        Raises `ArchiveError` for a chunk that is damaged, missing or out of its place.
        """
        for member in _members(self._path):
            if self.is_complete:
                raise ArchiveError("something follows the archive's end")
            records = self._take(member)
            self.end = member.end
            if records:
                yield records
        if not self.about:
            raise ArchiveError(f"{self._path} is no log archive")

    def _take(self, member: Member) -> list[Recorded]:
        *lines, trailer = member.lines
        try:
            closing = orjson.loads(trailer)
        except orjson.JSONDecodeError as exc:
            raise ArchiveError(f"chunk {self.number + 1} has no end") from exc
        if not self.about:
            return self._take_head(closing)
        if (end := closing.get("end")) is not None:
            if end["chain"] != self.digest.value or end["records"] != self.digest.records:
                raise ArchiveError("the archive's end does not belong to what is before it")
            self.is_complete = True
            return []
        return self._take_chunk(lines, closing.get("chunk") or {})

    def _take_head(self, closing: Mapping[str, Any]) -> list[Recorded]:
        about = closing.get("archive")
        if not isinstance(about, dict) or about.get("format") != FORMAT:
            raise ArchiveError(f"{self._path} is no log archive")
        if about.get("version") != VERSION:
            raise ArchiveError(
                f"the archive has version {about.get('version')}, this AgentOS reads {VERSION}"
            )
        self.about = about
        return []

    def _take_chunk(self, lines: Sequence[bytes], trailer: Mapping[str, Any]) -> list[Recorded]:
        expected = self.number + 1
        if trailer.get("number") != expected:
            raise ArchiveError(f"chunk {expected} is missing or out of its place")
        records = [from_entry(line) for line in lines]
        self.digest.add(records)
        if len(records) != trailer["records"] or self.digest.value != trailer["chain"]:
            raise ArchiveError(f"chunk {expected} is damaged: its checksum does not fit")
        self.number = expected
        self.last = trailer["last"]
        return records


def _members(path: Path) -> Iterator[Member]:
    """Yield the whole gzip members of a file; an unfinished last one is left out.

    Raises `ArchiveError` for bytes that are no gzip.
    """
    with path.open("rb") as file:
        at, rest = 0, b""
        while True:
            unpacker, parts, used, size = zlib.decompressobj(GZIP), [], 0, 0
            while not unpacker.eof:
                data = rest or file.read(READ)
                rest = b""
                if not data:
                    return
                try:
                    part = unpacker.decompress(data, MOST_CHUNK)
                except zlib.error as exc:
                    raise ArchiveError(f"damaged at byte {at + used}: {exc}") from exc
                size += len(part)
                if size > MOST_CHUNK or unpacker.unconsumed_tail:
                    raise ArchiveError(f"a chunk at byte {at} is larger than any of ours")
                parts.append(part)
                used += len(data)
            rest = unpacker.unused_data
            at += used - len(rest)
            yield Member(b"".join(parts).rstrip(b"\n").split(b"\n"), at)
