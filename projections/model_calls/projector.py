"""Puts each model call into its row of `model_calls`."""

from collections.abc import Sequence
from typing import ClassVar, Final, LiteralString

from pydantic_core import to_json

from agentos.domain.aggregate import FoldError
from agentos.domain.usage.usage import Usage, UsageRecorded
from agentos.projections.errors import PoisonRecordError
from agentos.projections.projector import Connection
from agentos.projections.reading import Inner, Reading, storable

PUT: Final = """
INSERT INTO model_calls (tenant_id, request_id, ended_at, principal_id, details, position)
SELECT t, r, e, p, d::json, n FROM unnest(%s::text[], %s::text[], %s::timestamptz[], %s::text[],
  %s::text[], %s::bigint[]) AS new (t, r, e, p, d, n)
ON CONFLICT (tenant_id, request_id) DO UPDATE SET ended_at = excluded.ended_at,
  principal_id = excluded.principal_id, details = excluded.details, position = excluded.position"""

Row = tuple[str, str, str, str, str, int]


class ModelCallsProjector:
    """One row a request id; of several calls with one id the last is kept."""

    name: ClassVar[str] = "model_calls"
    version: ClassVar[int] = 1
    kind: ClassVar[str] = Usage.KIND
    tables: ClassVar[tuple[LiteralString, ...]] = ("model_calls",)
    known: ClassVar[frozenset[str]] = frozenset(Usage.PAYLOADS)
    wanted: ClassVar[frozenset[str]] = frozenset({UsageRecorded.TYPE})

    async def apply(self, conn: Connection, readings: Sequence[Reading]) -> None:
        """Write a batch's rows, all at once."""
        rows = fold(readings)
        await conn.execute(PUT, [list(column) for column in zip(*rows, strict=True)])

    def forget(self) -> None:
        """Nothing is remembered between batches."""


def fold(readings: Sequence[Reading]) -> list[Row]:
    """Return a batch's rows, one a key; `PoisonRecordError` for what is no usage."""
    rows: dict[tuple[str, str], Row] = {}
    for reading in readings:
        try:
            for _, inner in reading.events:
                row = _row(inner, reading.record.position)
                rows[row[:2]] = row
        except (FoldError, KeyError, TypeError, ValueError) as exc:
            record, reason = reading.record, f"{type(exc).__name__}: {exc}"
            raise PoisonRecordError("model_calls", record.position, record.ref, reason) from exc
    return list(rows.values())


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
