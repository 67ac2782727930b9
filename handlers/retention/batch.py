"""What goes together: whole streams, or their beginnings, with all their commits."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from agentos.domain.log import Recorded
from agentos.domain.retention.retention import Archive, Gone, RetentionPlanned, Stream
from agentos.domain.retention.rules import Kind
from agentos.domain.subjects import StreamRef
from agentos.domain.times import rfc3339

MOST_STREAMS: Final = 1_000
MOST_BYTES: Final = 16 * 1024 * 1024


@dataclass(slots=True)
class Batch:
    """What is due of one kind; `items` counts what a person would count."""

    kind: Kind
    age_ms: int
    before_ms: int
    items: int = 0
    size: int = 0
    through: dict[StreamRef, int] = field(default_factory=dict)
    records: list[Recorded] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.records)

    @property
    def is_full(self) -> bool:
        """Whether the rest waits for the next one."""
        return len(self.through) >= MOST_STREAMS or self.size >= MOST_BYTES

    def add(self, records: Sequence[Recorded], items: int = 1) -> None:
        """Take in commits of one stream: all that lie before its last one are in it too."""
        for record in records:
            self.through[record.ref] = max(self.through.get(record.ref, 0), record.position)
            self.size += len(record.body)
        self.records += records
        self.items += items

    def in_order(self) -> list[Recorded]:
        """Return the commits in the order of the log."""
        return sorted(self.records, key=lambda record: record.position)

    def plan(
        self, plan_id: str, archive: Archive | None, gone: dict[str, Gone]
    ) -> RetentionPlanned:
        """Return what is to be written of it."""
        last = max(self.records, key=lambda record: record.position)
        return RetentionPlanned(
            plan_id=plan_id,
            kind=self.kind,
            age_ms=self.age_ms,
            before=rfc3339(self.before_ms),
            streams=[
                Stream(kind=ref.kind, id=ref.aggregate_id, through=through)
                for ref, through in self.through.items()
            ],
            items=self.items,
            commits=len(self.records),
            events=sum(len(record.types) for record in self.records),
            position=last.position,
            line=len(last.types),
            archive=archive,
            first=min(record.position for record in self.records),
            gone=gone,
        )
