"""What is asked about one model call."""

from typing import Any, Final

from agentos.projections.queries import Pool, fetch

GET: Final = """
SELECT to_char(ended_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'), principal_id, details
FROM agentos.model_calls WHERE tenant_id = %s AND request_id = %s"""


async def get_model_call(pool: Pool, tenant_id: str, request_id: str) -> dict[str, Any] | None:
    """Return a call as its usage event says, with `ended_at` and `principal_id`; or `None`.

    Raises `DependencyUnavailableError`.
    """
    rows = await fetch(pool, GET, (tenant_id, request_id), prepare=True)
    if not rows:
        return None
    ended_at, principal_id, details = rows[0]
    return {"ended_at": ended_at, "principal_id": principal_id, **details}
