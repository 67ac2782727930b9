"""A run event by event: what it was behind each one, what it had cost, how long it had taken."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from agentos.domain.aggregate import read_event
from agentos.domain.envelope import Event, read_line
from agentos.domain.log import Recorded
from agentos.domain.replay.as_of import changed_by
from agentos.domain.replay.states import run_state
from agentos.domain.run.events import RunStarted
from agentos.domain.run.run import Run
from agentos.domain.subjects import StreamRef


@dataclass(frozen=True, slots=True)
class Point:
    """The run just behind one event. `elapsed_ms` counts from its creation."""

    sequence: int
    time: str
    elapsed_ms: int
    since_last_ms: int
    cost_usd: float
    tokens_total: int
    event: dict[str, Any]
    state: dict[str, Any]
    changed_by: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return it as `--json` prints it."""
        return {name: getattr(self, name) for name in self.__slots__}


class Timeline:
    """A run's events in order; any of them can be looked at, in any order."""

    def __init__(self, ref: StreamRef, records: Sequence[Recorded]) -> None:
        self._ref = ref
        self._lines = [line for record in records for line in record.lines()]
        self.events: list[Event] = [read_event(line, Run.PAYLOADS) for line in self._lines]

    def __len__(self) -> int:
        return len(self.events)

    def at(self, sequence: int) -> Point:
        """Return the run behind the event with that sequence; `IndexError` for none."""
        if not 1 <= sequence <= len(self.events):
            raise IndexError(f"the run has events 1 to {len(self.events)}")
        run, worker = Run(self._ref), None
        for event in self.events[:sequence]:
            run.evolve(event)
            if isinstance(event.payload, RunStarted):
                worker = event.payload.worker_id
        event = self.events[sequence - 1]
        inner = read_line(self._lines[sequence - 1])
        before = self.events[max(0, sequence - 2)]
        return Point(
            sequence=sequence,
            time=inner["time"],
            elapsed_ms=event.time - self.events[0].time,
            since_last_ms=event.time - before.time,
            cost_usd=run.cost_usd,
            tokens_total=run.tokens_total,
            event=inner,
            state=run_state(run),
            changed_by=changed_by(event, worker),
        )
