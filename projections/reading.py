"""Each line of a batch parsed once, whatever the number of projections that look at it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from agentos.domain.aggregate import FoldError
from agentos.domain.envelope import read_line
from agentos.domain.log import Recorded
from agentos.domain.subjects import StreamRef

Inner = dict[str, Any]


class Reading(NamedTuple):
    """A commit and its events: each type, with the parsed event where a projection wants it."""

    record: Recorded
    events: list[tuple[str, Inner]]

    @property
    def ref(self) -> StreamRef:
        """Whose commit it is."""
        return self.record.ref


NOTHING: Inner = {}


def read_record(record: Recorded, wanted: frozenset[str]) -> Reading:
    """Return a commit with the lines parsed whose types are `wanted`; the others are `NOTHING`.

    Raises `FoldError` when lines and types do not match.
    """
    lines = record.lines()
    if len(lines) != len(record.types):
        raise FoldError(f"{len(lines)} lines for {len(record.types)} types")
    return Reading(
        record,
        [
            (kind, read_line(line) if kind in wanted else NOTHING)
            for kind, line in zip(record.types, lines, strict=True)
        ],
    )


def by_kind(
    records: Iterable[Recorded], wanted: Mapping[str, frozenset[str]]
) -> dict[str, Sequence[Recorded]]:
    """Return the records of each wanted kind, in order; void commits are left out."""
    found: dict[str, list[Recorded]] = {kind: [] for kind in wanted}
    for record in records:
        if (kept := found.get(record.ref.kind)) is not None and record.types:
            kept.append(record)
    return dict(found)


def storable(text: str) -> str:
    """Return `text` as a PostgreSQL text column takes it: NUL becomes U+FFFD."""
    return text.replace("\x00", "\ufffd") if "\x00" in text else text
