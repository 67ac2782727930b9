"""What all aggregates share: a place in the log, a folded sequence, and new events."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from agentos.domain.auth import Principal
from agentos.domain.envelope import Event, Origin, Payload, Trace, read_line
from agentos.domain.log import Recorded
from agentos.domain.subjects import StreamRef
from agentos.domain.times import to_ms


class FoldError(Exception):
    """The log does not fold: an unknown type, a gap or a repeat. Never skipped in silence."""


@dataclass(frozen=True, slots=True)
class Moment:
    """What a decision may not make itself: the time (epoch ms), new ids, where it comes from."""

    now_ms: int
    new_id: Callable[[str], str]
    origin: Origin


class Aggregate:
    """State folded from one stream of events.

    `position` is the log position of its last commit (what the next append expects),
    `sequence` that of its last event, `time` the latest time it has seen (epoch ms). `sealed` is
    the key of its content, if it has one; `is_readable` says whether all of it could be opened.
    """

    KIND: ClassVar[str]
    PAYLOADS: ClassVar[Mapping[str, type[Payload]]]

    def __init__(self, ref: StreamRef) -> None:
        self.ref = ref
        self.position = 0
        self.sequence = 0
        self.time = 0
        self.is_void = False
        self.sealed = ""
        self.is_readable = True

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]  # mutable: never a key

    def apply(self, event: Event) -> None:
        """Evolve the state by one event; a pure function of state and event."""
        raise NotImplementedError

    def evolve(self, event: Event) -> None:
        """Fold one event that follows the last; `FoldError` when it does not."""
        if event.sequence != self.sequence + 1:
            raise FoldError(f"{self.ref}: sequence {event.sequence} after {self.sequence}")
        self.apply(event)
        self.sequence = event.sequence
        self.time = max(self.time, event.time)

    def fold(self, records: Iterable[Recorded]) -> Self:
        """Fold commits that follow the last; those at or behind `position` are passed over."""
        for record in records:
            if record.position <= self.position:
                continue
            if record.is_void:
                self.is_void = True
            if record.sealed:
                self.sealed = record.sealed
                self.is_readable = self.is_readable and record.readable
            for event in read_events(record, self.PAYLOADS):
                self.evolve(event)
            self.position = record.position
        return self

    def later(self, now_ms: int) -> int:
        """Return the time of a decision made now: it never runs backwards."""
        return max(self.time, now_ms)


def read_events(record: Recorded, payloads: Mapping[str, type[Payload]]) -> list[Event]:
    """Return the events of a commit; `FoldError` for a type that is not known."""
    return [read_event(line, payloads) for line in record.lines()]


def read_event(line: bytes, payloads: Mapping[str, type[Payload]]) -> Event:
    """Return the event of one line, its payload validated by its class."""
    inner = read_line(line)
    payload = payloads.get(inner["type"])
    if payload is None:
        raise FoldError(f"unknown event type {inner['type']!r}")
    trace: dict[str, str] = inner["trace"]
    principal: dict[str, Any] | None = inner.get("principal")
    return Event(
        event_id=inner["event_id"],
        sequence=inner["sequence"],
        time=to_ms(inner["time"]),
        tenant_id=inner["tenant_id"],
        trace=Trace(trace["traceparent"], trace["span_id"]),
        payload=payload.model_validate(inner["payload"]),
        agent_id=inner.get("agent_id"),
        run_id=inner.get("run_id"),
        step_id=inner.get("step_id"),
        principal=None if principal is None else Principal.model_validate(principal),
    )


def next_event(
    aggregate: Aggregate,
    payload: Payload,
    at: Moment,
    *,
    agent_id: str | None = None,
    run_id: str | None = None,
    step_id: str | None = None,
    trace: Trace | None = None,
) -> Event:
    """Return the event that follows the aggregate's last one, in its own or `at`'s trace."""
    return Event(
        event_id=at.new_id("evt"),
        sequence=aggregate.sequence + 1,
        time=aggregate.later(at.now_ms),
        tenant_id=aggregate.ref.tenant_id,
        trace=trace or at.origin.trace,
        payload=payload,
        agent_id=agent_id,
        run_id=run_id,
        step_id=step_id,
        principal=at.origin.principal,
    )
