"""Folds agent events into the rows of `agents`."""

from collections.abc import Sequence
from typing import ClassVar, Final, LiteralString

from pydantic_core import to_json

from agentos.domain.agent.agent import Agent
from agentos.domain.aggregate import FoldError
from agentos.projections.agents.row import READ_COLUMNS, AgentRow
from agentos.projections.errors import PoisonRecordError
from agentos.projections.projector import Connection
from agentos.projections.reading import Inner, Reading

LOAD: Final = (
    f"SELECT {READ_COLUMNS} FROM unnest(%s::text[], %s::text[]) AS k (tenant_id, agent_id) "  # noqa: S608 - constants only
    "JOIN agents a ON a.tenant_id = k.tenant_id AND a.agent_id = k.agent_id"
)
UPSERT: Final = """
INSERT INTO agents
  (tenant_id, agent_id, status, created_at, updated_at, definition, sequence, position)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s)
ON CONFLICT (tenant_id, agent_id) DO UPDATE SET
  status = excluded.status, updated_at = excluded.updated_at, definition = excluded.definition,
  sequence = excluded.sequence, position = excluded.position"""

Key = tuple[str, str]


class AgentsProjector:
    """One row an agent. Agents change seldom: their rows are read again for each batch."""

    name: ClassVar[str] = "agents"
    version: ClassVar[int] = 1
    kind: ClassVar[str] = Agent.KIND
    tables: ClassVar[tuple[LiteralString, ...]] = ("agents",)
    known: ClassVar[frozenset[str]] = frozenset(Agent.PAYLOADS)
    wanted: ClassVar[frozenset[str]] = frozenset(Agent.PAYLOADS)

    async def apply(self, conn: Connection, readings: Sequence[Reading]) -> None:
        """Fold a batch and write its rows."""
        keys = {(reading.ref.tenant_id, reading.ref.aggregate_id) for reading in readings}
        cursor = await conn.execute(LOAD, ([k[0] for k in keys], [k[1] for k in keys]))
        rows = {(v[0], v[1]): AgentRow(*v) for v in await cursor.fetchall()}
        fold(rows, readings)
        await cursor.executemany(UPSERT, [_values(rows[key]) for key in keys])

    def forget(self) -> None:
        """Nothing is remembered between batches."""


def fold(rows: dict[Key, AgentRow], readings: Sequence[Reading]) -> None:
    """Evolve `rows` by a batch; `PoisonRecordError` for a record that does not follow."""
    for reading in readings:
        record = reading.record
        key = (record.ref.tenant_id, record.ref.aggregate_id)
        try:
            row = rows.get(key)
            if record.first_sequence != (row.sequence if row else 0) + 1:
                raise FoldError(f"sequence {record.first_sequence} after {row and row.sequence}")
            for _, inner in reading.events:
                row = rows[key] = _evolve(row, key, inner)
            if row is not None:
                row.position = record.position
        except (FoldError, KeyError, TypeError, ValueError) as exc:
            reason = f"{type(exc).__name__}: {exc}"
            raise PoisonRecordError("agents", record.position, record.ref, reason) from exc


def _evolve(row: AgentRow | None, key: Key, inner: Inner) -> AgentRow:
    payload, time = inner["payload"], inner["time"]
    if row is None:
        row = AgentRow(*key, payload["status"], time, time, "", 0, 0)
    row.status = payload["status"]
    row.updated_at = max(row.updated_at, time)
    if (definition := payload.get("definition")) is not None:
        row.definition = to_json(definition, inf_nan_mode="null").decode()
    if not row.definition:
        raise FoldError("an agent without a definition")
    row.sequence += 1
    return row


def _values(row: AgentRow) -> tuple[str | int, ...]:
    return (
        row.tenant_id,
        row.agent_id,
        row.status,
        row.created_at,
        row.updated_at,
        row.definition,
        row.sequence,
        row.position,
    )
