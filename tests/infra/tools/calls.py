"""Tool calls and callers for the tests of tools."""

from typing import Any

from agentos.domain.auth import USER_SCOPES, AuthContext, Principal
from agentos.domain.ports import ToolCall


def caller(tenant_id: str = "tnt_a", scopes: frozenset[str] = USER_SCOPES) -> AuthContext:
    """Return a user of a tenant."""
    return AuthContext(
        tenant_id=tenant_id, principal=Principal(principal_id="usr_1"), scopes=scopes
    )


def call(
    tool_id: str, call_id: str = "tcall_1", /, *, timeout_ms: int = 10_000, **arguments: Any
) -> ToolCall:
    """Return one call of a tool; `call_id` is its idempotency key."""
    return ToolCall(call_id, tool_id, arguments, "run_1", timeout_ms)
