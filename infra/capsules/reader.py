"""Reads a capsule, and only after it was verified as a whole. Nothing of it is unpacked to disk."""

import hashlib
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from agentos.domain.ids import is_named_id
from agentos.domain.replay.capsule import CapsuleError, CapsuleRun, read_runs
from agentos.infra.capsules.keys import holds
from agentos.infra.capsules.writer import FORMAT, MANIFEST, SIGNATURE, Manifest, Part

MOST_BYTES: Final = 256 * 1024 * 1024
BROKEN: Final = (tarfile.TarError, OSError, EOFError, zlib.error)


def verify(path: Path) -> Manifest:
    """Return what the capsule holds, once every byte of it is what was signed.

    Raises `CapsuleError`. Who signed it is for the caller to judge: `Manifest.public_key`.
    """
    parts: list[Part] = []
    ends: dict[str, bytes] = {}
    for name, content in _members(path):
        if name in (MANIFEST, SIGNATURE):
            ends[name] = content
        elif ends:
            raise CapsuleError(f"{path.name}: {name} lies behind the manifest")
        else:
            digest = hashlib.sha256(content).hexdigest()
            parts.append(Part(name=name, bytes=len(content), sha256=digest))
    if list(ends) != [MANIFEST, SIGNATURE]:
        raise CapsuleError(f"{path.name}: it has no manifest with a signature")
    try:
        manifest = Manifest.model_validate_json(ends[MANIFEST])
    except ValidationError as exc:
        raise CapsuleError(f"{path.name}: its manifest cannot be read") from exc
    if manifest.format != FORMAT:
        raise CapsuleError(f"{path.name}: this version reads {FORMAT}, not {manifest.format}")
    if not is_named_id(manifest.capsule_id, "cap"):
        raise CapsuleError(f"{path.name}: its manifest names no capsule's id")
    if not holds(manifest.public_key, ends[MANIFEST], ends[SIGNATURE]):
        raise CapsuleError(f"{path.name}: the signature is not that of its manifest")
    if parts != manifest.parts:
        raise CapsuleError(f"{path.name}: its parts are not those that were signed")
    return manifest


def runs_of(path: Path) -> Iterator[CapsuleRun]:
    """Yield the runs of a verified capsule, one part in memory at a time."""
    return read_runs(_lines(path))


def _lines(path: Path) -> Iterator[bytes]:
    for name, content in _members(path):
        if name not in (MANIFEST, SIGNATURE):
            yield from content.removesuffix(b"\n").split(b"\n")


def _members(path: Path) -> Iterator[tuple[str, bytes]]:
    try:
        with tarfile.open(path, mode="r|gz") as tar:
            for member in tar:
                if not member.isfile() or member.size > MOST_BYTES:
                    raise CapsuleError(f"{path.name}: {member.name} is no part of a capsule")
                file = tar.extractfile(member)
                content = b"" if file is None else file.read()
                if len(content) != member.size:
                    raise CapsuleError(f"{path.name}: it ends too early")
                yield member.name, content
    except BROKEN as exc:
        raise CapsuleError(f"{path.name}: no capsule, or a damaged one: {exc}") from exc
