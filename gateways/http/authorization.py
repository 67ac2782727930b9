"""Which scope each route asks for: the one table that every route consults."""

from collections.abc import Mapping
from typing import Final

from agentos.domain.auth import AuthContext
from agentos.domain.errors import ForbiddenError

OPEN: Final = ""
"""The scope of a route that anybody may call."""

SCOPES: Final[Mapping[tuple[str, str], str]] = {
    ("GET", "/v1/health"): OPEN,
    ("GET", "/v1/federation/health"): OPEN,
    ("POST", "/v1/models:invoke"): "models:invoke",
    ("GET", "/healthz"): OPEN,
    ("GET", "/readyz"): OPEN,
    ("GET", "/metrics"): OPEN,  # platform:admin where AGENTOS_METRICS_REQUIRE_AUTH is set
    ("GET", "/v1/agents"): "agents:read",
    ("GET", "/v1/agents/{agent_id}"): "agents:read",
    ("POST", "/v1/agents"): "agents:write",
    ("PUT", "/v1/agents/{agent_id}"): "agents:write",
    ("POST", "/v1/agents/{agent_id}:deprecate"): "agents:write",
    ("POST", "/v1/agents/{agent_id}/runs"): "runs:create",
    ("POST", "/v1/agents/{agent_id}/runs:stream"): "runs:create",
    ("GET", "/v1/runs"): "runs:read",
    ("GET", "/v1/runs/{run_id}"): "runs:read",
    ("GET", "/v1/runs/{run_id}/wait"): "runs:read",
    ("POST", "/v1/runs/{run_id}:cancel"): "runs:cancel",
    ("GET", "/v1/runs/{run_id}/approvals"): "runs:read",
    ("POST", "/v1/runs/{run_id}/approvals/{approval_id}"): "tools:approve",
    ("POST", "/v1/runs/{run_id}:fork"): "runs:create",  # and runs:read: it takes over a past
    ("GET", "/v1/runs/{run_id}/events"): "runs:read",
    ("GET", "/v1/events"): "events:read",
    ("GET", "/v1/usage"): "usage:read",
    ("GET", "/v1/model-calls"): "usage:read",
    ("GET", "/v1/model-calls/{request_id}"): "usage:read",
    ("GET", "/v1/audit"): "audit:read",  # another tenant's: platform admins only
    ("GET", "/v1/audit/events"): "audit:read",  # and so here
    ("POST", "/v1/chat/completions"): "models:invoke",
    ("POST", "/v1/embeddings"): "models:invoke",
    ("POST", "/v1/responses"): "models:invoke",
    ("GET", "/v1/federation/jwks.json"): OPEN,
    ("GET", "/v1/federation/peer"): "runs:forward|runs:read|federation:peer",
    ("GET", "/v1/federation/peer/capabilities"): "runs:forward|runs:read|federation:peer",
    ("GET", "/v1/peer/info"): "runs:forward|runs:read|federation:peer",
    ("GET", "/v1/peer/capabilities"): "runs:forward|runs:read|federation:peer",
    ("GET", "/v1/federation/peers"): "platform:admin",
    ("PUT", "/v1/federation/peers/{stack_id}"): "platform:admin",
    ("DELETE", "/v1/federation/peers/{stack_id}"): "platform:admin",
    ("POST", "/v1/federation/runs:forward"): "runs:forward|runs:create",
    ("GET", "/v1/federation/runs/{run_id}/events"): "runs:read",
    ("POST", "/v1/federation/runs/{run_id}:cancel"): "runs:cancel",
    ("GET", "/v1/federation/runs/{run_id}/approvals"): "runs:read",
    ("POST", "/v1/federation/runs/{run_id}/approvals/{approval_id}"): "tools:approve",
    # With dev headers events:read suffices; the endpoint sees to it.
    ("POST", "/v1/federation/events:ingest"): "federation:peer|events:read",
    # A tenant's own admin, and for any tenant and all it may not do itself a platform's:
    # domain/tenant/access.py says which; here and again in the handlers.
    ("GET", "/v1/models"): "models:list",
    ("GET", "/v1/models/{model_id}"): "models:list",
    ("GET", "/v1/admin/models"): "platform:admin",
    ("PUT", "/v1/admin/models"): "platform:admin",
    ("GET", "/v1/admin/models/versions"): "platform:admin",
    ("GET", "/v1/admin/tenants"): "tenants:admin",
    ("POST", "/v1/admin/tenants"): "tenants:admin",
    ("GET", "/v1/admin/tenants/{tenant_id}"): "tenants:admin",
    ("PUT", "/v1/admin/tenants/{tenant_id}"): "tenants:admin",
    ("PATCH", "/v1/admin/tenants/{tenant_id}"): "tenants:admin",
    ("DELETE", "/v1/admin/tenants/{tenant_id}"): "tenants:admin",
    ("POST", "/v1/admin/tenants/{tenant_id}:enable"): "tenants:admin",
    ("POST", "/v1/admin/tenants/{tenant_id}:disable"): "tenants:admin",
    ("POST", "/v1/admin/tenants/{tenant_id}/subjects:erase"): "tenants:admin",
    ("GET", "/v1/admin/tenants/{tenant_id}/usage"): "tenants:admin",
    ("GET", "/v1/admin/tenants/{tenant_id}/keys"): "tenants:admin",
    ("POST", "/v1/admin/tenants/{tenant_id}/keys"): "tenants:admin",
    ("POST", "/v1/admin/tenants/{tenant_id}/keys/{key_id}:rotate"): "tenants:admin",
    ("DELETE", "/v1/admin/tenants/{tenant_id}/keys/{key_id}"): "tenants:admin",
    ("GET", "/v1/policies"): "tenants:admin",
    ("GET", "/v1/policies/{policy_id}"): "tenants:admin",
    ("POST", "/v1/policies/{policy_id}"): "tenants:admin",
    ("POST", "/v1/policies/{policy_id}:activate"): "tenants:admin",
    ("POST", "/v1/policy:check"): "policy:check",
    ("POST", "/v1/policy/check"): "policy:check",
}


def required_scope(method: str, route: str) -> str:
    """Return the scope of a route; `KeyError` for one that the table does not have.

    A parameter that takes slashes too (`{id:path}`) stands there as any other.
    """
    return SCOPES[method, route.replace(":path}", "}")]


def require(auth: AuthContext, scope: str) -> None:
    """Raise `ForbiddenError` unless the caller has the scope, or one of several (`a|b`)."""
    if scope not in auth.scopes and auth.scopes.isdisjoint(scope.split("|")):
        first, _, others = scope.partition("|")
        wanted = f"{first} (or {others.replace('|', ', ')})" if others else first
        raise ForbiddenError(f"the scope {wanted} is missing", required_scope=first)
