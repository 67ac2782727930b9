"""Events that a peer has pushed: kept apart from local runs, under the stack they come from."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

from pydantic import Field

from agentos.domain.aggregate import Aggregate, Moment, next_event
from agentos.domain.envelope import Event, Payload, by_type, is_none, read_line
from agentos.domain.federation.remote import Gap
from agentos.domain.ids import derived_id
from agentos.domain.subjects import StreamRef

KIND: Final = "ingest"


class EventsIngested(Payload):
    """Events that no push had delivered before, in the order in which they came."""

    TYPE: ClassVar = "agentos.federation.events.ingested"
    source_stack_id: str
    run_id: str | None = Field(default=None, exclude_if=is_none)
    accepted: int
    rejected: int
    lines: list[str]


@dataclass(slots=True)
class Sorted:
    """What of a push is new, and how much of it is not."""

    lines: list[bytes] = field(default_factory=list)
    rejected: int = 0


class Ingest(Aggregate):
    """What was pushed of one run of one stack."""

    KIND: ClassVar = KIND
    PAYLOADS: ClassVar = by_type(EventsIngested)

    def __init__(self, ref: StreamRef) -> None:
        super().__init__(ref)
        self.event_ids: set[str] = set()
        self.sequences: dict[int, str] = {}

    def apply(self, event: Event) -> None:
        """Evolve by one event."""
        payload = event.payload
        if isinstance(payload, EventsIngested):
            for line in payload.lines:
                self._take(read_line(line.encode()))

    def _take(self, inner: dict[str, Any]) -> None:
        self.event_ids.add(inner["event_id"])
        self.sequences[inner["sequence"]] = inner["event_id"]

    def take(
        self, source_stack_id: str, run_id: str | None, lines: Sequence[bytes], at: Moment
    ) -> tuple[list[Event], Sorted]:
        """Keep what is new; a repeat, or a second event in one place, is rejected.

        The lines are whole events of that run: the door has seen to it.
        """
        found = Sorted()
        ids, places = set(self.event_ids), set(self.sequences)
        for line in lines:
            inner = read_line(line)
            event_id, sequence = inner["event_id"], inner["sequence"]
            if event_id in ids or (run_id is not None and sequence in places):
                found.rejected += 1
                continue
            ids.add(event_id)
            places.add(sequence)
            found.lines.append(line)
        if not found.lines:
            return [], found
        payload = EventsIngested(
            source_stack_id=source_stack_id,
            run_id=run_id,
            accepted=len(found.lines),
            rejected=found.rejected,
            lines=[line.decode() for line in found.lines],
        )
        return [next_event(self, payload, at)], found

    def gaps(self) -> list[Gap]:
        """Return which sequences are missing between those that came."""
        found, expected = [], 1
        for sequence in sorted(self.sequences):
            if sequence > expected:
                found.append(Gap(expected, sequence - 1))
            expected = sequence + 1
        return found


def ingest_ref(tenant_id: str, source_stack_id: str, run_id: str | None) -> StreamRef:
    """Return the stream of what one stack pushed of one run, or of none."""
    return StreamRef(tenant_id, KIND, derived_id("ing", source_stack_id, run_id or ""))
