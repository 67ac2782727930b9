"""Whole runs of the past: each file is one run's log as it was once written.

Commits are parted by an empty line. A file that is committed never changes: the runs of every
earlier version fold, and are decided again to the same bytes, for ever. A new version that
writes other bytes adds a folder beside `v1`, made by `python -m tests.domain.replay.golden DIR`.
"""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from agentos.domain.agent.agent import Definition
from agentos.domain.envelope import read_line
from agentos.domain.log import Recorded
from agentos.domain.run.events import FINAL_TYPES
from agentos.domain.run.run import Run, run_ref
from tests.domain.given import recorded
from tests.domain.replay.given import lines_of, replayed
from tests.domain.replay.recorder import Recorder, kinds_of_runs

RUNS = Path(__file__).parent.parent / "golden" / "runs"
FILES = sorted(RUNS.glob("v*/*.ndjson"))


def records_of(path: Path) -> list[Recorded]:
    """Return the commits of a golden file."""
    bodies = path.read_bytes().removesuffix(b"\n").split(b"\n\n")
    like = recorded(replace(Recorder().records[0], ref=run_ref("tnt_a", "run_1")), 1)
    return [replace(like, position=at, body=body) for at, body in enumerate(bodies, 1)]


def definition_of(path: Path) -> Definition:
    """Return the agent of a version's runs."""
    return Definition.model_validate_json((path.parent / "definition.json").read_bytes())


@pytest.mark.parametrize("version", sorted(RUNS.glob("v*")), ids=lambda p: p.name)
def test_no_golden_run_has_changed_or_gone(version: Path) -> None:
    sums = json.loads((version / "digests.json").read_text())
    found = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in version.iterdir()
        if path.name != "digests.json"
    }
    assert found == sums


def test_every_kind_of_run_is_there() -> None:
    assert {path.stem for path in RUNS.glob("v*/*.ndjson")} >= kinds_of_runs().keys()


@pytest.mark.parametrize("path", FILES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_it_folds_and_is_decided_again(path: Path) -> None:
    records = records_of(path)
    lines = lines_of(records)
    found = replayed(records, definition_of(path))
    assert found.equal, found
    assert found.digest == hashlib.sha256(b"\n".join(lines)).hexdigest()
    run = Run(run_ref("tnt_a", "run_1")).fold(
        replace(record, types=tuple(read_line(line)["type"] for line in record.lines()))
        for record in records
    )
    assert run.is_final is (read_line(lines[-1])["type"] in FINAL_TYPES)
