"""One row of `runs`, as the projector keeps it and as queries return it."""

import hashlib
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Final
from uuid import UUID

from pydantic_core import from_json


@dataclass(slots=True)
class RunRow:
    """A run's row. Times are RFC 3339 texts as in the log; the five objects are JSON texts."""

    tenant_id: str
    run_id: str
    agent_id: str
    status: str
    created_at: str
    started_at: str | None
    completed_at: str | None
    labels: str | None
    run_options: str
    output: str | None
    error: str | None
    steps_total: int
    tool_calls_total: int
    model_calls_total: int
    tokens_total: int
    cost_usd: float
    correlation_id: str | None
    forked_from: str | None
    sequence: int
    position: int

    def view(self) -> dict[str, Any]:
        """Return the contract's `Run` object: what `Run.view()` says at the same position."""
        view: dict[str, Any] = {
            "tenant_id": self.tenant_id,
            "agent_id": self.agent_id,
            "run_id": self.run_id,
            "status": self.status,
            "created_at": self.created_at,
            "events_url": f"/v1/runs/{self.run_id}/events",
            "run_options": from_json(self.run_options),
            "output": None if self.output is None else from_json(self.output),
            "error": None if self.error is None else from_json(self.error),
        }
        if self.started_at is not None:
            view["started_at"] = self.started_at
            view["summary"] = {
                "steps_total": self.steps_total,
                "tool_calls_total": self.tool_calls_total,
                "model_calls_total": self.model_calls_total,
                "tokens_total": self.tokens_total,
                "cost_usd": self.cost_usd,
            }
        if self.completed_at is not None:
            view["completed_at"] = self.completed_at
        if self.labels is not None:
            view["labels"] = from_json(self.labels)
        if self.forked_from is not None:
            view["forked_from"] = from_json(self.forked_from)
        if self.correlation_id is not None:
            view["correlation_id"] = self.correlation_id
        return view

    def values(self) -> tuple[Any, ...]:
        """Return the columns in the order of `COLUMNS`."""
        values: tuple[Any, ...] = ALL(self)
        return values


NAMES: Final = tuple(RunRow.__dataclass_fields__)
ALL: Final = attrgetter(*NAMES)
COLUMNS: Final = (
    "tenant_id, run_id, agent_id, status, created_at, started_at, completed_at, labels, "
    "run_options, output, error, steps_total, tool_calls_total, model_calls_total, "
    "tokens_total, cost_usd, correlation_id, forked_from, sequence, position"
)
READ_COLUMNS: Final = (
    "r.tenant_id, r.run_id, r.agent_id, r.status, "
    "to_char(r.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"'), "
    "to_char(r.started_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"'), "
    "to_char(r.completed_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"'), "
    "r.labels::text, r.run_options::text, r.output::text, r.error::text, r.steps_total, "
    "r.tool_calls_total, r.model_calls_total, r.tokens_total, r.cost_usd, r.correlation_id, "
    "r.forked_from::text, r.sequence, r.position"
)


def label_digest(key: str, value: str) -> UUID:
    """Return what stands for a label in `run_labels` (128 bits; the key's length goes in)."""
    text = f"{len(key)}:{key}{value}".encode()
    return UUID(bytes=hashlib.sha256(text).digest()[:16])
