"""One row of `agents`, as the projector keeps it and as queries return it."""

from dataclasses import dataclass
from typing import Any, Final

from pydantic_core import from_json


@dataclass(slots=True)
class AgentRow:
    """An agent's row. Times are RFC 3339 texts as in the log, `definition` is a JSON text."""

    tenant_id: str
    agent_id: str
    status: str
    created_at: str
    updated_at: str
    definition: str
    sequence: int
    position: int

    def view(self) -> dict[str, Any]:
        """Return the contract's `Agent` object: what `Agent.view()` says at that position."""
        return {
            "agent_id": self.agent_id,
            "tenant_id": self.tenant_id,
            "status": self.status,
            "created_at": self.created_at,
            "updated_at": self.updated_at,
            **from_json(self.definition),
        }


READ_COLUMNS: Final = (
    "a.tenant_id, a.agent_id, a.status, "
    "to_char(a.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"'), "
    "to_char(a.updated_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"'), "
    "a.definition::text, a.sequence, a.position"
)
