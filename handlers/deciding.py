"""One decision on a small aggregate: folded, decided, appended, and made once per command."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from agentos.domain.aggregate import Aggregate, Moment, read_events
from agentos.domain.envelope import Event
from agentos.domain.errors import AppendConflictError, TimedOutError
from agentos.domain.log import Recorded, make_commit
from agentos.domain.subjects import StreamRef
from agentos.handlers.parts import Parts

A = TypeVar("A", bound=Aggregate)
RACES: Final = 20


@dataclass(frozen=True, slots=True)
class Decided(Generic[A]):
    """What a decision came to, with the aggregate as it stands just behind it.

    `events` are those that the command wrote, none when it changed nothing. `is_repeat` says
    that it wrote them earlier, `is_same` that it would have decided the same again.
    """

    aggregate: A
    events: list[Event]
    is_repeat: bool = False
    is_same: bool = True


async def decide_once(
    parts: Parts,
    kind: type[A],
    ref: StreamRef,
    at: Moment,
    decision: Callable[[A, Moment], list[Event]],
) -> Decided[A]:
    """Fold the aggregate, let `decision` say what happens, append it; again after a lost race.

    A command id that the aggregate has seen decides nothing again. Raises what `decision`
    raises, `TimedOutError` when others are always first.
    """
    for _ in range(RACES):
        records = await parts.log.read(ref)
        if (place := _place(records, at.origin.command_id)) is not None:
            return _repeated(kind, ref, at, records[: place + 1], decision)
        aggregate = kind(ref).fold(records)
        events = decision(aggregate, at)
        if not events:
            return Decided(aggregate, events)
        commit = make_commit(
            ref,
            events,
            parts.new_id,
            command_id=at.origin.command_id,
            correlation_id=at.origin.correlation_id,
            by_tenant=at.origin.tenant_id,
            sealed=aggregate.sealed,
        )
        try:
            position = await parts.log.append(commit, expected=aggregate.position)
        except AppendConflictError:
            continue
        for event in events:
            aggregate.evolve(event)
        aggregate.position = position
        return Decided(aggregate, events)
    raise TimedOutError(f"the {kind.KIND} changes too fast; try again")


def _place(records: Sequence[Recorded], command_id: str) -> int | None:
    places = (at for at, record in enumerate(records) if record.command_id == command_id)
    return next(places, None) if command_id else None


def _repeated(
    kind: type[A],
    ref: StreamRef,
    at: Moment,
    records: Sequence[Recorded],
    decision: Callable[[A, Moment], list[Event]],
) -> Decided[A]:
    """Return the first answer; the decision is made again only to see whether it is the same."""
    before = kind(ref).fold(records[:-1])
    again = [event.payload for event in decision(before, at)]
    events = read_events(records[-1], kind.PAYLOADS)
    is_same = again == [event.payload for event in events]
    return Decided(kind(ref).fold(records), events, is_repeat=True, is_same=is_same)
