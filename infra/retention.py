"""Retention as the settings say it, and the directory where what goes is kept."""

import asyncio
import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from agentos.domain.archive import ArchiveError, Digest
from agentos.domain.log import Recorded
from agentos.domain.retention.retention import Archive
from agentos.domain.retention.rules import LEAST_MS, NodeRetention
from agentos.infra.archive import CHUNK_RECORDS, ArchiveWriter
from agentos.infra.log_transfer import content_digest, verify_archive
from agentos.infra.settings import Settings

CHUNK_BYTES: Final = 256 * 1024
"""Small, so that the process's other work goes on between two of them."""
NO_ARCHIVE: Final = "none"


@dataclass(frozen=True, slots=True)
class ArchiveDirectory:
    """Files of what went, each in the format of `agentos log export`, for their owner alone."""

    directory: Path

    async def write(self, name: str, plan_id: str, records: Sequence[Recorded]) -> Archive:
        """Write commits into a new file, on disk and read back once this returns.

        Raises `ArchiveError` when what was read back is not what was to be written, `OSError`.
        """
        return await asyncio.to_thread(self._write, name, plan_id, records)

    async def holds(self, archive: Archive) -> bool:
        """Whether the file is there, byte for byte."""
        path = self.directory / archive.name
        try:
            return await asyncio.to_thread(_sha256, path) == archive.sha256
        except OSError:
            return False

    async def discard(self, name: str) -> None:
        """Remove a file that no plan names."""
        await asyncio.to_thread((self.directory / name).unlink, missing_ok=True)

    def missing(self, named: Sequence[Archive]) -> list[str]:
        """Return the archives that are not here."""
        return [a.name for a in named if not (self.directory / a.name).is_file()]

    def unnamed(self, named: Sequence[Archive]) -> list[str]:
        """Return the files that no plan names: of a process that ended before it could plan."""
        names = {archive.name for archive in named}
        there = self.directory.glob("*.log.gz*") if self.directory.is_dir() else ()
        return sorted(path.name for path in there if path.name not in names)

    def _write(self, name: str, plan_id: str, records: Sequence[Recorded]) -> Archive:
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        part, path = self.directory / f".{name}.part", self.directory / name
        try:
            archive = _proven(part, name, plan_id, records)
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)  # a disk that is full must not get fuller
            raise
        _sync(self.directory)
        return archive


def _proven(part: Path, name: str, plan_id: str, records: Sequence[Recorded]) -> Archive:
    """Write a file to the disk, and read it back."""
    writer = ArchiveWriter.open(part, {"plan_id": plan_id, "created_at": _now()})
    try:
        for chunk in _chunks(records):
            writer.write(chunk)
        writer.finish()
    finally:
        writer.close()
    _sync(part)
    digest = _digest(records)
    verify_archive(part)
    if content_digest(part) != digest:
        raise ArchiveError(f"{part} does not hold what was written to it")
    return Archive(name=name, sha256=_sha256(part), bytes=part.stat().st_size, digest=digest)


def retention_rules(settings: Settings) -> NodeRetention:
    """Return what the settings say of retention; `ValueError` for what cannot be.

    In `demo` and `dev` any age will do, so that it can be tried.
    """
    return NodeRetention.of(
        {
            "runs": settings.retention_runs,
            "remote_runs": settings.retention_remote_runs,
            "usage": settings.retention_usage,
            "quota": settings.retention_quota,
        },
        least_ms=LEAST_MS if settings.profile == "prod" else 0,
        has_archive=settings.retention_archive != NO_ARCHIVE,
    )


def archive_directory(settings: Settings) -> ArchiveDirectory | None:
    """Return where archives go, `None` where the settings say `none`."""
    said = settings.retention_archive
    if said == NO_ARCHIVE:
        return None
    return ArchiveDirectory(Path(said) if said else settings.data_dir / "archive")


def _chunks(records: Sequence[Recorded]) -> Iterator[list[Recorded]]:
    chunk: list[Recorded] = []
    size = 0
    for record in records:
        chunk.append(record)
        size += len(record.body)
        if size >= CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _digest(records: Sequence[Recorded]) -> str:
    digest = Digest()
    for start in range(0, len(records), CHUNK_RECORDS):
        digest.add(records[start : start + CHUNK_RECORDS])
    return digest.value


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
