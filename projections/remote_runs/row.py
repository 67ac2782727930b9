"""One row of `remote_runs`, as the projector keeps it and as queries return it."""

from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from pydantic_core import from_json


@dataclass(slots=True)
class RemoteRow:
    """A remote run's row. `created_at` is RFC 3339; view, gaps and filled are JSON texts."""

    tenant_id: str
    run_id: str
    stack_id: str
    forward_id: str
    agent_id: str
    status: str
    created_at: str
    labels: list[UUID]
    view_json: str
    copied: int
    has_ended: bool
    gaps: str
    filled: str
    position: int

    @property
    def sequence(self) -> int:
        """The sequence up to which the run was copied."""
        return self.copied

    def view(self) -> dict[str, Any]:
        """Return the contract's `Run` object with its `remote` part."""
        view: dict[str, Any] = from_json(self.view_json)
        return view

    def values(self) -> tuple[Any, ...]:
        """Return the columns in the order of `COLUMNS`."""
        return tuple(getattr(self, name) for name in NAMES)


NAMES: Final = tuple(RemoteRow.__dataclass_fields__)
COLUMNS: Final = (
    "tenant_id, run_id, stack_id, forward_id, agent_id, status, created_at, labels, view, "
    "copied, has_ended, gaps, filled, position"
)
READ_COLUMNS: Final = (
    "r.tenant_id, r.run_id, r.stack_id, r.forward_id, r.agent_id, r.status, "
    "to_char(r.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"'), "
    "r.labels, r.view::text, r.copied, r.has_ended, r.gaps::text, r.filled::text, r.position"
)
