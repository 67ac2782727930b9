"""A run that was copied from a peer, put back into commits, so that it can be decided again.

A copy has the lines and not the commits they came in. What one decision wrote has one time and
one trace; where two decisions fell into the same millisecond, what begins one cuts them apart.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import combinations, islice
from typing import Any, Final

from agentos.domain.agent.agent import Definition
from agentos.domain.envelope import read_line
from agentos.domain.federation.remote import RemoteRun, copied_lines
from agentos.domain.log import Recorded
from agentos.domain.replay.replay import Replay
from agentos.domain.run.events import (
    ModelCompleted,
    RunCancelRequested,
    RunCreated,
    RunStarted,
    ToolCallCompleted,
)
from agentos.domain.run.run import run_ref
from agentos.domain.subjects import StreamRef

CUTS: Final = 64
BEGINNINGS: Final = frozenset(
    kind.TYPE for kind in (RunCreated, RunStarted, ModelCompleted, RunCancelRequested)
)


def copied_run(remote: RemoteRun, records: Sequence[Recorded]) -> list[Recorded]:
    """Return the commits of a remote run, as far as it was copied from its first event on."""
    ref = run_ref(remote.ref.tenant_id, remote.ref.aggregate_id)
    lines = copied_lines(records)
    contiguous = [line for at, (number, line) in enumerate(lines, 1) if number == at]
    return [
        Recorded(
            ref,
            f"copied_{first}",
            first,
            tuple(str(inner["type"]) for inner, _ in commit),
            b"\n".join(line for _, line in commit),
            position=first,
        )
        for first, commit in _commits(contiguous)
    ]


def replayed_copy(
    ref: StreamRef, definition: Callable[[str], Definition], records: Sequence[Recorded]
) -> Replay:
    """Decide a copied run again, with its commits cut where they then come out the same.

    A model's answer and a tool's result may have one time: whether that was one decision or two
    is seen by deciding. Where no cut helps, the difference stands.
    """
    replay, decided = Replay(ref, definition), list[Recorded]()
    for record in records:
        replay.feed([record])
        if replay.difference is None:
            decided.append(record)
            continue
        for pieces in islice(_cuts(record), CUTS):
            again = Replay(ref, definition).feed([*decided, *pieces])
            if again.difference is None:
                replay = again
                decided += pieces
                break
    return replay


def _cuts(record: Recorded) -> Iterator[list[Recorded]]:
    """Yield a commit cut in front of results of tools, at one place, then at two, and so on."""
    places = [at for at, kind in enumerate(record.types) if at and kind == ToolCallCompleted.TYPE]
    for count in range(1, len(places) + 1):
        for chosen in combinations(places, count):
            ends = (*chosen, len(record.types))
            yield [
                _piece(record, begin, end) for begin, end in zip((0, *chosen), ends, strict=True)
            ]


def _piece(record: Recorded, begin: int, end: int) -> Recorded:
    return replace(
        record,
        commit_id=f"{record.commit_id}_{begin}",
        first_sequence=record.first_sequence + begin,
        types=record.types[begin:end],
        body=b"\n".join(record.lines()[begin:end]),
    )


def _commits(lines: Sequence[bytes]) -> Iterator[tuple[int, list[tuple[dict[str, Any], bytes]]]]:
    """Yield the first sequence of each commit, and its events with their lines."""
    first, commit = 1, list[tuple[dict[str, Any], bytes]]()
    for number, line in enumerate(lines, 1):
        inner = read_line(line)
        if commit and (inner["type"] in BEGINNINGS or _origin(inner) != _origin(commit[0][0])):
            yield first, commit
            first, commit = number, []
        commit.append((inner, line))
    if commit:
        yield first, commit


def _origin(inner: dict[str, Any]) -> tuple[Any, Any]:
    return inner["time"], inner["trace"]["traceparent"][:35]
