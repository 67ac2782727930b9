"""Writes the records of the audit chains as rows of `audit_records`."""

from collections.abc import Sequence
from typing import ClassVar, Final, LiteralString

from pydantic_core import to_json

from agentos.domain.audit.chain import AuditRecorded
from agentos.domain.audit.checkpoint import AuditCheckpoints
from agentos.projections.errors import PoisonRecordError
from agentos.projections.projector import Connection
from agentos.projections.reading import Inner, Reading, storable

# Long texts go as they are (`%b`): made into the text of an array, each of their quotes is escaped
# by itself.
INSERT: Final = """
INSERT INTO audit_records
  (tenant_id, position, line, time, action, principal_id, outcome, run_id, record)
SELECT * FROM unnest(%s::text[], %s::bigint[], %s::integer[], %s::timestamptz[], %s::text[],
  %s::text[], %s::text[], %s::text[], %b::text[]::json[])"""
Row = tuple[str, int, int, str, str, str, str, str | None, str]


class AuditRecordsProjector:
    """One row a record. A row is written once and never changes.

    Whether the chain holds is not asked here: a record that was forged is shown like any other,
    and `agentos audit verify` names it.
    """

    name: ClassVar[str] = "audit_records"
    version: ClassVar[int] = 1
    kind: ClassVar[str] = AuditCheckpoints.KIND
    tables: ClassVar[tuple[LiteralString, ...]] = ("audit_records",)
    known: ClassVar[frozenset[str]] = frozenset(AuditCheckpoints.PAYLOADS)
    wanted: ClassVar[frozenset[str]] = frozenset({AuditRecorded.TYPE})

    async def apply(self, conn: Connection, readings: Sequence[Reading]) -> None:
        """Write the rows of a batch."""
        rows = [row for reading in readings for row in _rows(reading)]
        if rows:
            await conn.execute(INSERT, [list(column) for column in zip(*rows, strict=True)])

    def forget(self) -> None:
        """Nothing is remembered between batches."""


def _rows(reading: Reading) -> list[Row]:
    record = reading.record
    try:
        return [
            _row(reading, line, inner["payload"])
            for line, (kind, inner) in enumerate(reading.events)
            if kind == AuditRecorded.TYPE
        ]
    except (KeyError, TypeError, AttributeError) as exc:
        reason = f"{type(exc).__name__}: {exc}"
        raise PoisonRecordError("audit_records", record.position, record.ref, reason) from exc


def _row(reading: Reading, line: int, said: Inner) -> Row:
    run_id = said.get("run_id")
    return (
        reading.ref.tenant_id,
        reading.record.position,
        line,
        said["time"],
        storable(said["action"]),
        storable(said["principal"]["principal_id"]),
        said["outcome"],
        None if run_id is None else storable(run_id),
        to_json(said).decode(),
    )
