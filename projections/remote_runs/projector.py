"""Folds the copies of remote runs into the rows of `remote_runs`."""

from collections.abc import Sequence
from typing import Any, ClassVar, Final, LiteralString

from pydantic_core import from_json, to_json

from agentos.domain.aggregate import FoldError
from agentos.domain.envelope import read_line
from agentos.domain.federation.remote import (
    KEPT_NOTES,
    KIND,
    EventsCopied,
    GapFilled,
    GapFound,
    RemoteEnded,
    RemoteRun,
    RunLinked,
)
from agentos.domain.federation.view import fold_view, known_status, new_view
from agentos.domain.times import rfc3339, to_ms
from agentos.projections.errors import PoisonRecordError
from agentos.projections.projector import Connection
from agentos.projections.reading import Inner, Reading, storable
from agentos.projections.remote_runs.row import COLUMNS, READ_COLUMNS, RemoteRow
from agentos.projections.runs.row import label_digest

LOAD: Final = (
    f"SELECT {READ_COLUMNS} FROM unnest(%s::text[], %s::text[]) AS k (tenant_id, run_id) "  # noqa: S608 - constants only
    "JOIN remote_runs r ON r.tenant_id = k.tenant_id AND r.run_id = k.run_id"
)
WRITE: Final = (
    f"INSERT INTO remote_runs ({COLUMNS}) VALUES "  # noqa: S608 - constants only
    "(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) "
    "ON CONFLICT (tenant_id, run_id) DO UPDATE SET status = EXCLUDED.status, "
    "created_at = EXCLUDED.created_at, view = EXCLUDED.view, copied = EXCLUDED.copied, "
    "has_ended = EXCLUDED.has_ended, gaps = EXCLUDED.gaps, filled = EXCLUDED.filled, "
    "position = EXCLUDED.position"
)
Key = tuple[str, str]


class RemoteRunsProjector:
    """One row a remote run."""

    name: ClassVar[str] = "remote_runs"
    version: ClassVar[int] = 1
    kind: ClassVar[str] = KIND
    tables: ClassVar[tuple[LiteralString, ...]] = ("remote_runs",)
    known: ClassVar[frozenset[str]] = frozenset(RemoteRun.PAYLOADS)
    wanted: ClassVar[frozenset[str]] = frozenset(RemoteRun.PAYLOADS)

    async def apply(self, conn: Connection, readings: Sequence[Reading]) -> None:
        """Fold a batch and write its rows."""
        rows = await _load(conn, readings)
        for reading in readings:
            _fold(rows, reading)
        touched = dict.fromkeys((r.ref.tenant_id, r.ref.aggregate_id) for r in readings)
        async with conn.cursor() as cursor:
            await cursor.executemany(WRITE, [rows[key].values() for key in touched])

    def forget(self) -> None:
        """Nothing is remembered between batches."""


async def _load(conn: Connection, readings: Sequence[Reading]) -> dict[Key, RemoteRow]:
    keys = {(r.ref.tenant_id, r.ref.aggregate_id) for r in readings if r.record.first_sequence > 1}
    if not keys:
        return {}
    cursor = await conn.execute(LOAD, ([k[0] for k in keys], [k[1] for k in keys]))
    return {(v[0], v[1]): RemoteRow(*v) for v in await cursor.fetchall()}


def _fold(rows: dict[Key, RemoteRow], reading: Reading) -> None:
    record = reading.record
    key = (record.ref.tenant_id, record.ref.aggregate_id)
    try:
        for kind, inner in reading.events:
            if kind == RunLinked.TYPE:
                rows[key] = _linked(key, inner)
            elif (row := rows.get(key)) is None:
                raise FoldError(f"{kind} of a copy that was never begun")
            else:
                _evolve(row, kind, inner)
        rows[key].position = record.position
    except (FoldError, KeyError, TypeError, ValueError) as exc:
        reason = f"{type(exc).__name__}: {exc}"
        raise PoisonRecordError("remote_runs", record.position, record.ref, reason) from exc


def _linked(key: Key, inner: Inner) -> RemoteRow:
    payload = inner["payload"]
    labels: dict[str, str] = payload.get("labels") or {}
    return RemoteRow(
        tenant_id=key[0],
        run_id=key[1],
        stack_id=payload["stack_id"],
        forward_id=payload["forward_id"],
        agent_id=storable(payload["agent_id"]),
        status=known_status(payload["status"]),
        created_at=_time(payload["created_at"], inner["time"]),
        labels=[label_digest(name, value) for name, value in labels.items()],
        view_json=_json(new_view(key[0], key[1], payload)),
        copied=0,
        has_ended=False,
        gaps="[]",
        filled="[]",
        position=0,
    )


def _time(text: str, otherwise: str) -> str:
    """Return a time that a peer said, `otherwise` when it is none."""
    try:
        return rfc3339(to_ms(text))
    except (ValueError, OverflowError):
        return otherwise


def _evolve(row: RemoteRow, kind: str, inner: Inner) -> None:
    payload = inner["payload"]
    if kind == EventsCopied.TYPE:
        view = row.view()
        for line in payload["lines"]:
            fold_view(view, read_line(line.encode()))
        row.view_json, row.copied = _json(view), payload["last"]
        row.status = known_status(view["status"])
        row.created_at = _time(view["created_at"], row.created_at)
    elif kind == GapFound.TYPE:
        gap = {name: payload[name] for name in ("first", "last", "reason")}
        row.gaps = _json([*from_json(row.gaps), gap][-KEPT_NOTES:])
        if payload["reason"] == "expired":
            row.copied = max(row.copied, payload["last"])
    elif kind == GapFilled.TYPE:
        note = {name: payload[name] for name in ("first", "last", "by", "cut_ms")}
        row.filled = _json([*from_json(row.filled), note | {"at": inner["time"]}][-KEPT_NOTES:])
        first, last = payload["first"], payload["last"]
        left = [gap for gap in from_json(row.gaps) if not first <= gap["first"] <= last]
        row.gaps = _json(left)
    elif kind == RemoteEnded.TYPE:
        row.has_ended = True
        status = known_status(payload["status"])
        if row.status != status:  # the event that says so is not in the copy
            row.status = status
            row.view_json = _json({**row.view(), "status": row.status})


def _json(value: Any) -> str:
    return to_json(value, inf_nan_mode="null").decode()
