"""Puts each model call into its row of `model_calls`, and takes old rows out.

Which rows are old follows from the events alone, so a rebuild on another day gives the same
rows: a row goes when the newest hour in which calls were recorded is `days` later than its own.
"""

from collections.abc import Iterable, Sequence
from typing import ClassVar, Final, LiteralString

from pydantic_core import to_json

from agentos.domain.aggregate import FoldError
from agentos.domain.times import rfc3339, to_ms
from agentos.domain.usage.usage import Usage, UsageRecorded
from agentos.projections.errors import PoisonRecordError
from agentos.projections.projector import Connection
from agentos.projections.reading import Inner, Reading, storable

DAYS: Final = 90
HOUR_MS: Final = 3_600_000
HOURS_A_DAY: Final = 24
# Long texts go as they are (`%b`): made into the text of an array, each of their quotes is escaped
# by itself.
PUT: Final = """
INSERT INTO model_calls (tenant_id, request_id, ended_at, principal_id, details, position)
SELECT t, r, e, p, d::json, n FROM unnest(%s::text[], %s::text[], %s::timestamptz[], %s::text[],
  %b::text[], %s::bigint[]) AS new (t, r, e, p, d, n)
ON CONFLICT (tenant_id, request_id) DO UPDATE SET ended_at = excluded.ended_at,
  principal_id = excluded.principal_id, details = excluded.details, position = excluded.position"""
KEPT: Final = "SELECT newest_hour, days FROM model_calls_kept"
KEEP: Final = """
INSERT INTO model_calls_kept (newest_hour, days) VALUES (%s, %s)
ON CONFLICT (is_only) DO UPDATE SET newest_hour = excluded.newest_hour, days = excluded.days"""
PRUNE: Final = "DELETE FROM model_calls WHERE ended_at < %s"

Row = tuple[str, str, str, str, str, int]


class ModelCallsProjector:
    """One row a request id, for `days`; of several calls with one id the last is kept."""

    name: ClassVar[str] = "model_calls"
    version: ClassVar[int] = 2
    kind: ClassVar[str] = Usage.KIND
    tables: ClassVar[tuple[LiteralString, ...]] = ("model_calls", "model_calls_kept")
    known: ClassVar[frozenset[str]] = frozenset(Usage.PAYLOADS)
    wanted: ClassVar[frozenset[str]] = frozenset({UsageRecorded.TYPE})

    def __init__(self, days: int = DAYS) -> None:
        self._days = days
        self._kept: tuple[int, int] | None = None

    async def apply(self, conn: Connection, readings: Sequence[Reading]) -> None:
        """Write a batch's rows, all at once, and take out those that are too old by now."""
        rows, times = fold(readings)
        await conn.execute(PUT, [list(column) for column in zip(*rows, strict=True)])
        kept = self._kept or await _kept(conn)
        hour = newest_hour(kept[0] if kept else None, times)
        oldest = (hour - self._days * HOURS_A_DAY) * HOUR_MS
        is_moved = kept != (hour, self._days)
        if is_moved:
            await conn.execute(KEEP, (hour, self._days))
            self._kept = (hour, self._days)
        if is_moved or min(times) < oldest:
            await conn.execute(PRUNE, (rfc3339(max(0, oldest)),))

    def forget(self) -> None:
        """Forget how far the calls came: the transaction did not come to be."""
        self._kept = None


def newest_hour(known: int | None, times: Iterable[int]) -> int:
    """Return the newest hour (since the epoch) behind events of those times (ms), in order.

    One event moves it on by a day at most: a clock that once was years ahead costs no history.
    """
    for time_ms in times:
        hour = time_ms // HOUR_MS
        known = hour if known is None else max(known, min(hour, known + HOURS_A_DAY))
    if known is None:
        raise ValueError("no events have no newest hour")
    return known


async def _kept(conn: Connection) -> tuple[int, int] | None:
    row = await (await conn.execute(KEPT)).fetchone()
    return None if row is None else (row[0], row[1])


def fold(readings: Sequence[Reading]) -> tuple[list[Row], list[int]]:
    """Return a batch's rows, one a key, and the times (ms) of all its events in order.

    Raises `PoisonRecordError` for what is no usage.
    """
    rows: dict[tuple[str, str], Row] = {}
    times: list[int] = []
    for reading in readings:
        try:
            for _, inner in reading.events:
                row = _row(inner, reading.record.position)
                rows[row[:2]] = row
                times.append(to_ms(row[2]))
        except (FoldError, KeyError, TypeError, ValueError) as exc:
            record, reason = reading.record, f"{type(exc).__name__}: {exc}"
            raise PoisonRecordError("model_calls", record.position, record.ref, reason) from exc
    return list(rows.values()), times


def _row(inner: Inner, position: int) -> Row:
    payload = inner["payload"]
    return (
        inner["tenant_id"],
        storable(payload["request_id"]),
        inner["time"],
        storable(inner["principal"]["principal_id"]),
        to_json(payload, inf_nan_mode="null").decode(),
        position,
    )
