"""From when on something may go: pure, so that it can be tried with every time there is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from agentos.domain.envelope import read_line
from agentos.domain.log import Recorded
from agentos.domain.run.events import FINAL_TYPES, RunCreated
from agentos.domain.run.idempotency import EPOCH_MS
from agentos.domain.times import to_ms

MARGIN_MS: Final = 86_400_000
"""A run's id may be of the next epoch, when its admission's clock was ahead of its creation's."""


@dataclass(frozen=True, slots=True)
class EndedRun:
    """What decides when a whole run may go. Times are epoch ms."""

    created_at: int
    ended_at: int
    is_keyed: bool


def ended_run(records: Sequence[Recorded]) -> EndedRun | None:
    """Return what the commits of a run say, `None` for one that has not ended or is not whole."""
    first = next((record for record in records if record.types), None)
    if first is None or first.first_sequence != 1 or first.types[0] != RunCreated.TYPE:
        return None
    last = records[-1]
    if not last.types or last.types[-1] not in FINAL_TYPES:
        return None
    created = read_line(first.lines()[0])
    return EndedRun(
        created_at=to_ms(created["time"]),
        ended_at=time_of(last),
        is_keyed=created["payload"].get("idempotency_key") is not None,
    )


def run_due_at(run: EndedRun, age_ms: int, ttl_ms: int) -> int:
    """Return from when on a run may go.

    The id of a run with an idempotency key follows from key and epoch (decision 002): as long as
    that epoch lasts, and a key of it may still be looked up, the id must not come free.
    """
    due = run.ended_at + age_ms
    if not run.is_keyed:
        return due
    epoch = (run.created_at + MARGIN_MS) // EPOCH_MS
    return max(due, (epoch + 1) * EPOCH_MS + ttl_ms)


def is_settled(record: Recorded, base: int, before_ms: int) -> bool:
    """Whether a commit of a long-lived aggregate may go: no fold needs it, and it is old enough.

    A fold begins at position `base`; what is not younger than `before_ms` is old.
    """
    return record.position < base and not (record.types and time_of(record) > before_ms)


def time_of(record: Recorded) -> int:
    """Return the time of a commit's last event (epoch ms)."""
    return to_ms(read_line(record.lines()[-1])["time"])
