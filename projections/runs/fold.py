"""What each run event does to its row: the same as `Run.apply` does to the aggregate."""

from collections.abc import Callable, Sequence
from typing import Any, Final

from pydantic_core import to_json

from agentos.domain.aggregate import FoldError
from agentos.domain.run.events import (
    ModelCompleted,
    ModelRequested,
    RunCanceled,
    RunCompleted,
    RunCreated,
    RunFailed,
    RunStarted,
    StepStarted,
    ToolCallRequested,
)
from agentos.projections.errors import PoisonRecordError
from agentos.projections.reading import Inner, Reading, storable
from agentos.projections.runs.row import RunRow

Key = tuple[str, str]


def fold(rows: dict[Key, RunRow], readings: Sequence[Reading]) -> list[Key]:
    """Evolve `rows` by a batch; returns the keys of the runs that it creates.

    Raises `PoisonRecordError` for a record that does not follow the row's last event.
    """
    created: list[Key] = []
    for reading in readings:
        record = reading.record
        key = (record.ref.tenant_id, record.ref.aggregate_id)
        try:
            row = rows.get(key)
            if row is None:
                row = rows[key] = _create(reading)
                created.append(key)
            _evolve(row, reading)
        except (FoldError, KeyError, TypeError, ValueError) as exc:
            reason = f"{type(exc).__name__}: {exc}"
            raise PoisonRecordError("runs", record.position, record.ref, reason) from exc
    return created


def _evolve(row: RunRow, reading: Reading) -> None:
    record, events = reading
    if record.first_sequence != row.sequence + 1:
        raise FoldError(f"sequence {record.first_sequence} after {row.sequence}")
    for kind, inner in events:
        if (change := CHANGES.get(kind)) is not None:
            change(row, inner)
    row.sequence += len(events)
    row.position = record.position


def _create(reading: Reading) -> RunRow:
    kind, inner = reading.events[0]
    if kind != RunCreated.TYPE:
        raise FoldError(f"{kind} for a run that was never created")
    payload = inner["payload"]
    labels = payload["context"].get("labels")
    correlation = payload.get("correlation_id")
    return RunRow(
        tenant_id=inner["tenant_id"],
        run_id=inner["run_id"],
        agent_id=inner["agent_id"],
        status=payload["status"],
        created_at=inner["time"],
        started_at=None,
        completed_at=None,
        labels=_json(labels) if labels else None,
        run_options=_json(payload["run_options"]),
        output=None,
        error=None,
        steps_total=0,
        tool_calls_total=0,
        model_calls_total=0,
        tokens_total=0,
        cost_usd=0.0,
        correlation_id=storable(correlation) if correlation else None,
        forked_from=_json(fork) if (fork := payload.get("fork")) else None,
        sequence=0,
        position=0,
    )


def _json(value: Any) -> str:
    return to_json(value, inf_nan_mode="null").decode()


def _started(row: RunRow, inner: Inner) -> None:
    row.status = "running"
    if row.started_at is None:
        row.started_at = inner["time"]


def _step_started(row: RunRow, inner: Inner) -> None:
    if inner["payload"]["step_kind"] in ("model", "tool"):
        row.steps_total += 1


def _model_requested(row: RunRow, inner: Inner) -> None:
    row.model_calls_total += 1


def _tool_requested(row: RunRow, inner: Inner) -> None:
    row.tool_calls_total += 1


def _model_completed(row: RunRow, inner: Inner) -> None:
    payload = inner["payload"]
    row.tokens_total += payload["usage"]["total_tokens"]
    row.cost_usd += payload["cost_usd"]


def _ended(row: RunRow, inner: Inner) -> None:
    payload = inner["payload"]
    row.status = payload["status"]
    row.completed_at = inner["time"]
    if (output := payload.get("output")) is not None:
        row.output = _json(output)
    if (error := payload.get("error")) is not None:
        row.error = _json(error)


CHANGES: Final[dict[str, Callable[[RunRow, Inner], None]]] = {
    RunStarted.TYPE: _started,
    StepStarted.TYPE: _step_started,
    ModelRequested.TYPE: _model_requested,
    ModelCompleted.TYPE: _model_completed,
    ToolCallRequested.TYPE: _tool_requested,
    RunCompleted.TYPE: _ended,
    RunFailed.TYPE: _ended,
    RunCanceled.TYPE: _ended,
}
# Counted by their type alone, their content is never parsed.
COUNTED: Final = frozenset({ModelRequested.TYPE, ToolCallRequested.TYPE})
WANTED: Final = frozenset(CHANGES) - COUNTED | {RunCreated.TYPE}
