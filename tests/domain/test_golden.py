"""Events of the past: each golden file is one line as it was once written.

A file that is committed never changes (the manifest holds its digest): events of today must be
read for ever. A new type, or a new form of an old one, gets a file of its own and one more line
in `sha256sums.txt` (`sha256sum *.json > sha256sums.txt`, in that directory).
"""

import hashlib
from pathlib import Path

import pytest

from agentos.domain.aggregate import read_event
from agentos.domain.envelope import read_line, to_line
from agentos.domain.times import rfc3339
from tests.domain.test_event_names import AGGREGATES, all_payloads

GOLDEN = Path(__file__).parent / "golden" / "v1"
FILES = sorted(GOLDEN.glob("*.json"))
NAMES = [path.stem for path in FILES]


def line_of(path: Path) -> bytes:
    return path.read_bytes().removesuffix(b"\n")


def test_no_golden_file_has_changed_or_gone() -> None:
    lines = (GOLDEN / "sha256sums.txt").read_text().splitlines()
    sums = {line[66:]: line[:64] for line in lines}
    assert {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in FILES} == sums


def test_every_event_has_one() -> None:
    assert {str(read_line(line_of(path))["type"]) for path in FILES} == set(all_payloads())


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_it_is_read_and_written_as_it_was(path: Path) -> None:
    line = line_of(path)
    event = read_event(line, all_payloads())
    assert path.stem.partition("~")[0] == event.type
    assert to_line(event, rfc3339(event.time)) == line


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_nothing_in_it_is_lost(path: Path) -> None:
    inner = read_line(line_of(path))
    event = read_event(line_of(path), all_payloads())
    assert event.payload.model_dump(mode="json") == inner["payload"]
    assert event.payload == type(event.payload).model_validate(inner["payload"])


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_its_aggregate_can_fold_it(path: Path) -> None:
    event = read_event(line_of(path), all_payloads())
    (kind,) = (a for a in AGGREGATES if event.type in a.PAYLOADS)
    assert type(event.payload) is kind.PAYLOADS[event.type]
