"""Aggregates that live long: a balance event with the full state lets a fold begin late."""

from collections.abc import Iterable, Sequence

from agentos.domain.admission.events import QuotaBalanced
from agentos.domain.aggregate import Aggregate
from agentos.domain.envelope import Event
from agentos.domain.log import Recorded
from agentos.domain.subjects import StreamRef


class Balanced(Aggregate):
    """`base` is the position of the last commit with a balance, 0 where there is none."""

    def __init__(self, ref: StreamRef) -> None:
        super().__init__(ref)
        self.base = 0
        self.since_balance = 0

    def written(self, events: Sequence[Event], position: int) -> None:
        """Evolve by events that this process has just appended at `position`."""
        for event in events:
            self.evolve(event)
        self._moved(position, [event.type for event in events])

    def catch_up(self, records: Iterable[Recorded]) -> None:
        """Fold what others appended; the first record may be one with a balance."""
        for record in records:
            if record.position <= self.position:
                continue
            if self.position == 0 and QuotaBalanced.TYPE in record.types:
                self.sequence = record.first_sequence - 1
            self.fold([record])
            self._moved(record.position, record.types)

    def _moved(self, position: int, types: Sequence[str]) -> None:
        self.position = position
        self.since_balance += 1
        if QuotaBalanced.TYPE in types:
            self.base = position
            self.since_balance = 0
