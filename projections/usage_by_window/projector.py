"""Adds model calls up into the rows of `usage_by_window`."""

from collections.abc import Sequence
from typing import ClassVar, Final, LiteralString

from agentos.domain.admission.budgets import MICRO
from agentos.domain.aggregate import FoldError
from agentos.domain.usage.usage import Usage, UsageRecorded
from agentos.projections.errors import PoisonRecordError
from agentos.projections.projector import Connection
from agentos.projections.reading import Inner, Reading, storable

ADD: Final = """
INSERT INTO usage_by_window AS u (tenant_id, hour, model, agent_id, principal_id, calls, errors,
  blocked, refused, interrupted, input_tokens, output_tokens, micro_usd)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
ON CONFLICT (tenant_id, hour, model, agent_id, principal_id) DO UPDATE SET
  calls = u.calls + excluded.calls, errors = u.errors + excluded.errors,
  blocked = u.blocked + excluded.blocked, refused = u.refused + excluded.refused,
  interrupted = u.interrupted + excluded.interrupted,
  input_tokens = u.input_tokens + excluded.input_tokens,
  output_tokens = u.output_tokens + excluded.output_tokens,
  micro_usd = u.micro_usd + excluded.micro_usd"""
PLACES: Final = {"error": 1, "blocked": 2, "refused": 3, "interrupted": 4}

Key = tuple[str, str, str, str, str]


class UsageByWindowProjector:
    """One row a tenant, hour, model, agent and principal."""

    name: ClassVar[str] = "usage_by_window"
    version: ClassVar[int] = 1
    kind: ClassVar[str] = Usage.KIND
    tables: ClassVar[tuple[LiteralString, ...]] = ("usage_by_window",)
    known: ClassVar[frozenset[str]] = frozenset(Usage.PAYLOADS)
    wanted: ClassVar[frozenset[str]] = frozenset({UsageRecorded.TYPE})

    async def apply(self, conn: Connection, readings: Sequence[Reading]) -> None:
        """Add a batch up and write its rows."""
        sums = fold(readings)
        async with conn.cursor() as cursor:
            await cursor.executemany(ADD, [(*key, *sums[key]) for key in sorted(sums)])

    def forget(self) -> None:
        """Nothing is remembered between batches."""


def fold(readings: Sequence[Reading]) -> dict[Key, list[int]]:
    """Return a batch's sums; `PoisonRecordError` for what is no usage."""
    sums: dict[Key, list[int]] = {}
    for reading in readings:
        try:
            for _, inner in reading.events:
                _add(sums, inner)
        except (FoldError, KeyError, TypeError, ValueError, IndexError) as exc:
            record, reason = reading.record, f"{type(exc).__name__}: {exc}"
            raise PoisonRecordError("usage_by_window", record.position, record.ref, reason) from exc
    return sums


def _add(sums: dict[Key, list[int]], inner: Inner) -> None:
    payload = inner["payload"]
    model = f"{payload['backend']}/{payload['model']}" if payload["model"] else ""
    key = (
        inner["tenant_id"],
        f"{inner['time'][:13]}:00:00Z",
        storable(model),
        storable(payload.get("agent_id") or ""),
        storable(inner["principal"]["principal_id"]),
    )
    row = sums.setdefault(key, [0] * 8)
    calls = payload.get("stands_for") or 1
    row[0] += calls
    if (place := PLACES.get(payload["status"])) is not None:
        row[place] += calls
    row[5] += payload["usage"]["input_tokens"]
    row[6] += payload["usage"]["output_tokens"]
    row[7] += round(payload["cost_usd"] * MICRO)
