"""An aggregate as it was at a time or a sequence, and who changed it last."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from agentos.domain.admission.balanced import Balanced
from agentos.domain.admission.events import QuotaBalanced
from agentos.domain.aggregate import Aggregate, read_events
from agentos.domain.auth import SYSTEM_PRINCIPAL
from agentos.domain.envelope import Event
from agentos.domain.errors import NotFoundError
from agentos.domain.log import Recorded
from agentos.domain.replay.states import empty, state_of
from agentos.domain.run.events import RunCancelRequested, RunCreated, RunStarted
from agentos.domain.subjects import StreamRef
from agentos.domain.times import rfc3339


@dataclass(frozen=True, slots=True)
class Until:
    """Up to and with a sequence, or a time (epoch ms); all of it with neither."""

    sequence: int | None = None
    time_ms: int | None = None

    def holds(self, event: Event) -> bool:
        """Whether the event had happened by then."""
        if self.sequence is not None:
            return event.sequence <= self.sequence
        return self.time_ms is None or event.time <= self.time_ms


def as_of(ref: StreamRef, records: Sequence[Recorded], until: Until) -> dict[str, Any]:
    """Return `{at, sequence, state, changed_by}`.

    Raises `NotFoundError` where there was nothing yet (or what there was is purged).
    """
    aggregate = empty(ref)
    known_from = _begin(aggregate, records)
    worker: str | None = None
    last: Event | None = None
    for event in _events(records, aggregate.PAYLOADS):
        if not until.holds(event):
            break
        aggregate.evolve(event)
        last = event
        if isinstance(event.payload, RunStarted):
            worker = event.payload.worker_id
    if last is None or last.sequence < known_from:
        raise NotFoundError(f"there is no such {ref.kind} at that point of the log")
    return {
        "at": rfc3339(until.time_ms if until.time_ms is not None else last.time),
        "sequence": last.sequence,
        "state": state_of(aggregate),
        "changed_by": changed_by(last, worker),
    }


def _begin(aggregate: Aggregate, records: Sequence[Recorded]) -> int:
    """Stand before the first record; return the sequence from which on the state is whole.

    What lies before a balance event may be purged.
    """
    if not records or records[0].first_sequence == 1 or not isinstance(aggregate, Balanced):
        return 1
    first = records[0]
    if QuotaBalanced.TYPE not in first.types:
        raise NotFoundError("the log does not have the beginning of this quota any more")
    aggregate.sequence = first.first_sequence - 1
    return first.first_sequence + first.types.index(QuotaBalanced.TYPE)


def _events(records: Iterable[Recorded], payloads: Any) -> Iterable[Event]:
    for record in records:
        yield from read_events(record, payloads)


def changed_by(event: Event, worker: str | None = None) -> dict[str, Any]:
    """Return who wrote an event. A run's events are AgentOS's own, but for those of callers."""
    payload = event.payload
    if event.principal is not None:
        principal = event.principal.model_dump()
    elif isinstance(payload, RunCreated):
        principal = payload.principal.model_dump()
    elif isinstance(payload, RunCancelRequested):
        principal = {"principal_id": payload.by}
    else:
        principal = SYSTEM_PRINCIPAL.model_dump()
        if worker is not None:
            principal["worker_id"] = worker
    return {
        "principal": principal,
        "event_id": event.event_id,
        "type": event.type,
        "time": rfc3339(event.time),
    }
