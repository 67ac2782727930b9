"""What the replay's tests are given: recorded runs, and a replay that must come out equal."""

from collections.abc import Sequence
from dataclasses import replace

from agentos.domain.agent.agent import Definition
from agentos.domain.log import Recorded
from agentos.domain.replay.replay import Replay, Replayed, lines_digest


def replayed(records: Sequence[Recorded], definition: Definition, trusted: int = 0) -> Replayed:
    """Return what a replay of a whole run comes to."""
    return Replay(records[0].ref, lambda _: definition, trusted=trusted).feed(records).result()


def assert_replays(records: Sequence[Recorded], definition: Definition) -> None:
    """A run's log gives itself again, byte for byte, from wherever one begins."""
    lines = lines_of(records)
    for trusted in {0, len(records) // 2, len(records)}:
        found = replayed(records, definition, trusted)
        assert found.first_difference is None, found
        stored = [line for record in records for line in record.stored_lines()]
        assert found.digest == lines_digest(stored)
        assert found.events == len(lines)
        assert found.notes == ()


def lines_of(records: Sequence[Recorded]) -> list[bytes]:
    """Return all lines of a run."""
    return [line for record in records for line in record.lines()]


def with_line(records: Sequence[Recorded], at: int, line: bytes) -> list[Recorded]:
    """Return the records with the line at that place (0, 1 …) put in another's place."""
    made = []
    for record in records:
        lines = record.lines()
        if 0 <= at < len(lines):
            lines[at] = line
            made.append(replace(record, body=b"\n".join(lines)))
        else:
            made.append(record)
        at -= len(lines)
    return made
