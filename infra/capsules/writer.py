"""Writes a capsule: a gzipped tar of parts, then what they are, then who says so."""

import gzip
import hashlib
import io
import os
import tarfile
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from pydantic import BaseModel, ConfigDict
from pydantic_core import to_json

from agentos.infra.capsules.keys import Signer

FORMAT: Final = "agentos.capsule/1"
PART_BYTES: Final = 4 * 1024 * 1024
MANIFEST: Final = "manifest.json"
SIGNATURE: Final = "manifest.sig"


class Part(BaseModel):
    """One part of a capsule."""

    model_config = ConfigDict(frozen=True)

    name: str
    bytes: int
    sha256: str


class Manifest(BaseModel):
    """What a capsule holds; this is what is signed."""

    model_config = ConfigDict(frozen=True)

    format: str
    capsule_id: str
    created_at: str
    node: str
    agentos_version: str
    redacted_by: str | None
    runs: int
    events: int
    public_key: str
    parts: list[Part]


class CapsuleWriter:
    """One capsule being written, beside its place: it is there whole and signed, or not at all."""

    def __init__(self, path: Path, signer: Signer, about: dict[str, str | None]) -> None:
        self._path = path
        self._signer = signer
        self._about = about
        self._beside = path.with_name(f".{path.name}.{os.getpid()}")
        self._parts: list[Part] = []
        self._waiting: list[bytes] = []
        self._size = 0
        self.runs = 0
        self.events = 0

    def __enter__(self) -> Self:
        descriptor = os.open(self._beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        self._file = os.fdopen(descriptor, "wb")
        self._gzip = gzip.GzipFile(fileobj=self._file, mode="wb", compresslevel=3, mtime=0)
        self._tar = tarfile.open(fileobj=self._gzip, mode="w|")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._close()
                self._beside.replace(self._path)
        finally:
            self._file.close()
            self._beside.unlink(missing_ok=True)

    def _close(self) -> None:
        self._end()
        self._tar.close()
        self._gzip.close()
        self._file.flush()
        os.fsync(self._file.fileno())

    def add(self, lines: Iterable[bytes], *, events: int = 0) -> None:
        """Add an agent's line, or a run's block with so many events."""
        for line in lines:
            self._waiting.append(line)
            self._size += len(line) + 1
        self.runs += 1 if events else 0
        self.events += events
        if self._size >= PART_BYTES:
            self._flush()

    def _flush(self) -> None:
        if not self._waiting:
            return
        content = b"\n".join(self._waiting) + b"\n"
        name = f"parts/{len(self._parts) + 1:06d}.ndjson"
        self._member(name, content)
        digest = hashlib.sha256(content).hexdigest()
        self._parts.append(Part(name=name, bytes=len(content), sha256=digest))
        self._waiting, self._size = [], 0

    def _end(self) -> None:
        self._flush()
        manifest = Manifest.model_validate(
            {
                **self._about,
                "format": FORMAT,
                "runs": self.runs,
                "events": self.events,
                "public_key": self._signer.public_key,
                "parts": self._parts,
            }
        )
        content = to_json(manifest, indent=1)
        self._member(MANIFEST, content)
        self._member(SIGNATURE, self._signer.sign(content))

    def _member(self, name: str, content: bytes) -> None:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        info.mode = 0o600
        self._tar.addfile(info, io.BytesIO(content))
