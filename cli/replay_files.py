"""Capsules on this machine: which file is meant, whether it may be trusted, its runs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from agentos.cli.options import node_settings
from agentos.cli.replay_sources import FAILED, USAGE, RecordedRun, end
from agentos.domain.ids import is_named_id
from agentos.domain.replay.capsule import CapsuleError, CapsuleRun
from agentos.domain.run.run import run_ref
from agentos.infra.capsules.reader import runs_of, verify
from agentos.infra.capsules.writer import Manifest

FOLDER: Final = "capsules"
SUFFIX: Final = ".capsule"


def folder_of(data_dir: Path | None) -> Path:
    """Return where imported capsules lie."""
    return node_settings(data_dir).data_dir / FOLDER


def file_of(capsule: str, data_dir: Path | None) -> Path:
    """Return the file that a name means: a path, or the id of an import."""
    path = Path(capsule)
    if not path.exists() and is_named_id(capsule, "cap"):
        path = folder_of(data_dir) / f"{capsule}{SUFFIX}"
    return path


def verified(path: Path) -> Manifest:
    """Return a capsule's manifest; ends the command for one that does not verify."""
    try:
        return verify(path)
    except CapsuleError as exc:
        end(f"error: {exc}", FAILED)


def recorded(found: CapsuleRun) -> RecordedRun:
    """Return a capsule's run as any other: its own lines are what it is compared with."""
    head = found.head
    ref = run_ref(head.tenant_id, head.run_id)
    original = head.audited_digest or head.original_digest
    return RecordedRun(ref, found.records, found.versions, head.digest, original)


def recorded_runs(path: Path) -> Iterator[RecordedRun]:
    """Yield the runs of a verified capsule; ends the command where it cannot be read."""
    try:
        for found in runs_of(path):
            yield recorded(found)
    except CapsuleError as exc:
        end(f"error: {exc}", FAILED)


def run_in_capsule(
    capsule: str, run_id: str | None, tenant: str | None, data_dir: Path | None
) -> RecordedRun:
    """Return the run that is meant; its only one needs no id."""
    path = file_of(capsule, data_dir)
    verified(path)
    found: list[RecordedRun] = []
    for run in recorded_runs(path):
        if run_id in (None, run.ref.aggregate_id) and tenant in (None, run.ref.tenant_id):
            found.append(run)
        if len(found) > 1:
            end("the capsule holds several runs: name one, as `agentos replay import` lists", USAGE)
    if not found:
        end(f"error: not_found: the capsule has no run {run_id or ''}", FAILED)
    return found[0]
