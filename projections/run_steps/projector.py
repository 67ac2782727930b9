"""Folds step events into the rows of `run_steps`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, LiteralString

from agentos.domain.aggregate import FoldError
from agentos.domain.run.events import RUN_EVENTS, StepCompleted, StepStarted
from agentos.projections.errors import PoisonRecordError
from agentos.projections.projector import Connection
from agentos.projections.reading import Inner, Reading, storable

COPY_STEPS: Final = (
    "COPY run_steps (tenant_id, run_id, step_id, sequence, kind, name, status, started_at, "
    "duration_ms, position) FROM STDIN"
)
COMPLETE: Final = """
UPDATE run_steps SET status = %s, duration_ms = %s, position = %s
WHERE tenant_id = %s AND run_id = %s AND step_id = %s"""

Key = tuple[str, str, str]


@dataclass(slots=True)
class Step:
    """A step that a batch starts."""

    key: Key
    sequence: int
    kind: str
    name: str
    started_at: str
    position: int
    status: str = "running"
    duration_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """The end of a step that an earlier batch started."""

    key: Key
    status: str
    duration_ms: int
    position: int


@dataclass(slots=True)
class Changes:
    """What a batch does to the table."""

    started: dict[Key, Step]
    completed: list[Completion]


class RunStepsProjector:
    """One row a step."""

    name: ClassVar[str] = "run_steps"
    version: ClassVar[int] = 1
    kind: ClassVar[str] = "run"
    tables: ClassVar[tuple[LiteralString, ...]] = ("run_steps",)
    known: ClassVar[frozenset[str]] = frozenset(RUN_EVENTS)
    wanted: ClassVar[frozenset[str]] = frozenset({StepStarted.TYPE, StepCompleted.TYPE})

    async def apply(self, conn: Connection, readings: Sequence[Reading]) -> None:
        """Fold a batch and write its rows."""
        changes = fold(readings)
        if changes.started:
            await _insert(conn, list(changes.started.values()))
        if changes.completed:
            await _complete(conn, changes.completed, readings[-1])

    def forget(self) -> None:
        """Nothing is remembered between batches."""


def fold(readings: Sequence[Reading]) -> Changes:
    """Return what a batch does to the table; `PoisonRecordError` for what does not fold."""
    changes = Changes({}, [])
    for reading in readings:
        record = reading.record
        try:
            for offset, (kind, inner) in enumerate(reading.events):
                if kind == StepStarted.TYPE:
                    step = _start(reading, inner, record.first_sequence + offset)
                    if changes.started.setdefault(step.key, step) is not step:
                        raise FoldError(f"step {step.key[2]} starts twice")
                elif kind == StepCompleted.TYPE:
                    _end(changes, reading, inner)
        except (FoldError, KeyError, TypeError, ValueError) as exc:
            reason = f"{type(exc).__name__}: {exc}"
            raise PoisonRecordError("run_steps", record.position, record.ref, reason) from exc
    return changes


def _key(inner: Inner) -> Key:
    return inner["tenant_id"], inner["run_id"], inner["step_id"]


def _start(reading: Reading, inner: Inner, sequence: int) -> Step:
    payload = inner["payload"]
    return Step(
        key=_key(inner),
        sequence=sequence,
        kind=payload["step_kind"],
        name=storable(payload["name"]),
        started_at=inner["time"],
        position=reading.record.position,
    )


def _end(changes: Changes, reading: Reading, inner: Inner) -> None:
    payload, key, position = inner["payload"], _key(inner), reading.record.position
    step = changes.started.get(key)
    if step is None:
        end = Completion(key, payload["status"], payload["duration_ms"], position)
        changes.completed.append(end)
        return
    step.status = payload["status"]
    step.duration_ms = payload["duration_ms"]
    step.position = position


async def _insert(conn: Connection, steps: Sequence[Step]) -> None:
    async with conn.cursor() as cursor, cursor.copy(COPY_STEPS) as copy:
        for s in steps:
            row = (s.sequence, s.kind, s.name, s.status, s.started_at, s.duration_ms, s.position)
            await copy.write_row(s.key + row)


async def _complete(conn: Connection, ends: Sequence[Completion], last: Reading) -> None:
    async with conn.cursor() as cursor:
        await cursor.executemany(
            COMPLETE, [(end.status, end.duration_ms, end.position, *end.key) for end in ends]
        )
        if cursor.rowcount != len(ends):
            reason = f"{len(ends) - cursor.rowcount} steps of its batch end and never started"
            raise PoisonRecordError("run_steps", last.record.position, last.ref, reason)
