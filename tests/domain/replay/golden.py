"""Writes the golden runs of a new version: `python -m tests.domain.replay.golden DIR`."""

import hashlib
import json
import sys
from pathlib import Path

from tests.domain.replay.recorder import DEFINITION, Recorder, kinds_of_runs


def write(folder: Path) -> None:
    """Write a run of every kind, its agent, and the digests of the files."""
    folder.mkdir(parents=True)
    (folder / "definition.json").write_text(DEFINITION.model_dump_json(indent=1) + "\n")
    for kind, made in kinds_of_runs().items():
        _write_run(folder / f"{kind}.ndjson", made)
    Recorder.says_nothing_of_tools = True
    old = kinds_of_runs()
    for kind in ("tools_in_parallel", "refused_tools", "two_attempts"):
        _write_run(folder / f"{kind}_before_017.ndjson", old[kind])
    sums = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}
    (folder / "digests.json").write_text(json.dumps(sums, indent=1) + "\n")


def _write_run(path: Path, made: Recorder) -> None:
    path.write_bytes(b"\n\n".join(record.body for record in made.records) + b"\n")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
