"""Folds run events into the rows of `runs` and `run_labels`."""

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Final, LiteralString
from uuid import UUID

from pydantic_core import from_json

from agentos.domain.run.events import RUN_EVENTS
from agentos.domain.run.run import FINAL
from agentos.projections.projector import Connection
from agentos.projections.reading import Reading
from agentos.projections.runs.fold import WANTED, Key, fold
from agentos.projections.runs.row import COLUMNS, READ_COLUMNS, RunRow, label_digest

COPY_RUNS: Final = f"COPY runs ({COLUMNS}) FROM STDIN"
COPY_LABELS: Final = "COPY run_labels (tenant_id, label, created_at, run_id) FROM STDIN"
LOAD: Final = (
    f"SELECT {READ_COLUMNS} FROM unnest(%s::text[], %s::text[]) AS k (tenant_id, run_id) "  # noqa: S608 - constants only
    "JOIN runs r ON r.tenant_id = k.tenant_id AND r.run_id = k.run_id"
)
# What a run's creation settles is not written again.
UPDATE: Final = """
UPDATE runs SET status = %s, started_at = %s, completed_at = %s, output = %s, error = %s,
  steps_total = %s, tool_calls_total = %s, model_calls_total = %s, tokens_total = %s,
  cost_usd = %s, sequence = %s, position = %s
WHERE tenant_id = %s AND run_id = %s"""

REMEMBERED: Final = 4096


class RunsProjector:
    """One row a run. Rows of runs that are not final are remembered between batches."""

    name: ClassVar[str] = "runs"
    version: ClassVar[int] = 2
    kind: ClassVar[str] = "run"
    tables: ClassVar[tuple[LiteralString, ...]] = ("run_labels", "runs")
    known: ClassVar[frozenset[str]] = frozenset(RUN_EVENTS)
    wanted: ClassVar[frozenset[str]] = WANTED

    def __init__(self) -> None:
        self._open: dict[Key, RunRow] = {}

    async def apply(self, conn: Connection, readings: Sequence[Reading]) -> None:
        """Fold a batch and write its rows."""
        rows = await self._rows(conn, readings)
        created = fold(rows, readings)
        touched = {(reading.ref.tenant_id, reading.ref.aggregate_id) for reading in readings}
        await _insert(conn, [rows[key] for key in created])
        await _update(conn, [rows[key] for key in touched.difference(created)])
        self._remember(touched, rows)

    def forget(self) -> None:
        """Drop the remembered rows."""
        self._open.clear()

    async def _rows(self, conn: Connection, readings: Sequence[Reading]) -> dict[Key, RunRow]:
        rows: dict[Key, RunRow] = {}
        missing: set[Key] = set()
        for record, _ in readings:
            key = (record.ref.tenant_id, record.ref.aggregate_id)
            if (row := self._open.get(key)) is not None:
                rows[key] = row
            elif record.first_sequence > 1:
                missing.add(key)
        if missing:
            cursor = await conn.execute(LOAD, ([k[0] for k in missing], [k[1] for k in missing]))
            for values in await cursor.fetchall():
                rows[values[0], values[1]] = RunRow(*values)
        return rows

    def _remember(self, touched: Iterable[Key], rows: dict[Key, RunRow]) -> None:
        for key in touched:
            self._open.pop(key, None)
            if (row := rows[key]).status not in FINAL:
                self._open[key] = row
        for key in list(self._open)[: max(0, len(self._open) - REMEMBERED)]:
            del self._open[key]


async def _insert(conn: Connection, rows: Sequence[RunRow]) -> None:
    if not rows:
        return
    async with conn.cursor() as cursor:
        async with cursor.copy(COPY_RUNS) as copy:
            for row in rows:
                await copy.write_row(row.values())
        if labels := [label for row in rows for label in _labels(row)]:
            async with cursor.copy(COPY_LABELS) as copy:
                for label in labels:
                    await copy.write_row(label)


def _labels(row: RunRow) -> list[tuple[str, UUID, str, str]]:
    if row.labels is None:
        return []
    pairs: dict[str, str] = from_json(row.labels)
    return [
        (row.tenant_id, label_digest(key, value), row.created_at, row.run_id)
        for key, value in pairs.items()
    ]


async def _update(conn: Connection, rows: Sequence[RunRow]) -> None:
    if not rows:
        return
    async with conn.cursor() as cursor:
        await cursor.executemany(UPDATE, [_changed(row) for row in rows])


def _changed(row: RunRow) -> tuple[Any, ...]:
    return (
        row.status,
        row.started_at,
        row.completed_at,
        row.output,
        row.error,
        row.steps_total,
        row.tool_calls_total,
        row.model_calls_total,
        row.tokens_total,
        row.cost_usd,
        row.sequence,
        row.position,
        row.tenant_id,
        row.run_id,
    )
