"""What is asked about the steps of a run."""

from dataclasses import dataclass
from typing import Final

from agentos.projections.queries import Pool, fetch

STEPS: Final = """
SELECT step_id, sequence, kind, name, status,
  to_char(started_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'), duration_ms, position
FROM agentos.run_steps WHERE tenant_id = %s AND run_id = %s ORDER BY sequence"""


@dataclass(frozen=True, slots=True)
class StepRow:
    """One step: `status` is running, ok or error; `started_at` is RFC 3339."""

    step_id: str
    sequence: int
    kind: str
    name: str
    status: str
    started_at: str
    duration_ms: int | None
    position: int


async def get_steps(pool: Pool, tenant_id: str, run_id: str) -> list[StepRow]:
    """Return the steps of a run in their order; empty for a run that has none or is not there.

    Raises `DependencyUnavailableError`.
    """
    return [StepRow(*values) for values in await fetch(pool, STEPS, (tenant_id, run_id))]
