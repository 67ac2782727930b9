"""What the audit has of each route: the one table that says it for every route of every door.

A refused call has a record of the route's action, whatever the route; one that fails at the gate
has `auth.denied`. What an allowed call has stands here.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

EVENT: Final = "its event is recorded by the auditor; at another tenant's without one, by handlers"
LOOK: Final = "a look at another tenant's, or at all of them, is recorded before anything is shown"
NODE_LOOK: Final = "a look at what is the node's is recorded before anything is shown"
COUNTED: Final = "it has no event: counted here, one record may stand for many"

OWN: Final = "a tenant's look at its own, which changes nothing"
ABOUT_NODE: Final = "says of this node what every peer may know"
OPEN_TO_ALL: Final = "anybody may ask, nothing of a tenant is shown"


class Audited(NamedTuple):
    """The action of a route's records, and how an allowed call is recorded, or why it is not."""

    action: str
    how: str


ROUTES: Final[Mapping[tuple[str, str], Audited]] = {
    ("GET", "/v1/health"): Audited("health.read", OPEN_TO_ALL),
    ("GET", "/v1/federation/health"): Audited("health.read", OPEN_TO_ALL),
    ("GET", "/healthz"): Audited("health.read", OPEN_TO_ALL),
    ("GET", "/readyz"): Audited("health.read", OPEN_TO_ALL),
    ("GET", "/metrics"): Audited("metrics.read", OPEN_TO_ALL),
    ("GET", "/v1/federation/jwks.json"): Audited("keys.read", OPEN_TO_ALL),
    ("GET", "/v1/agents"): Audited("agents.read", OWN),
    ("GET", "/v1/agents/{agent_id}"): Audited("agents.read", OWN),
    ("POST", "/v1/agents"): Audited("agents.register", EVENT),
    ("PUT", "/v1/agents/{agent_id}"): Audited("agents.update", EVENT),
    ("POST", "/v1/agents/{agent_id}:deprecate"): Audited("agents.deprecate", EVENT),
    ("POST", "/v1/agents/{agent_id}/runs"): Audited("runs.create", EVENT),
    ("POST", "/v1/agents/{agent_id}/runs:stream"): Audited("runs.create", EVENT),
    ("GET", "/v1/runs"): Audited("runs.read", OWN),
    ("GET", "/v1/runs/{run_id}"): Audited("runs.read", OWN),
    ("GET", "/v1/runs/{run_id}/wait"): Audited("runs.read", OWN),
    ("POST", "/v1/runs/{run_id}:cancel"): Audited("runs.cancel", EVENT),
    ("GET", "/v1/runs/{run_id}/approvals"): Audited("runs.read", OWN),
    ("POST", "/v1/runs/{run_id}/approvals/{approval_id}"): Audited("tools.approve", EVENT),
    ("POST", "/v1/runs/{run_id}:fork"): Audited("runs.create", EVENT),
    ("GET", "/v1/runs/{run_id}/events"): Audited("runs.read", OWN),
    ("GET", "/v1/events"): Audited("events.read", OWN),
    ("GET", "/v1/usage"): Audited("usage.read", LOOK),
    ("GET", "/v1/model-calls"): Audited("usage.read", OWN),
    ("GET", "/v1/model-calls/{request_id}"): Audited("usage.read", OWN),
    ("GET", "/v1/audit"): Audited("audit.query", LOOK),
    ("GET", "/v1/audit/events"): Audited("audit.query", LOOK),
    ("POST", "/v1/models:invoke"): Audited("models.invoke", EVENT),
    ("POST", "/v1/chat/completions"): Audited("models.invoke", EVENT),
    ("POST", "/v1/embeddings"): Audited("models.invoke", EVENT),
    ("POST", "/v1/responses"): Audited("models.invoke", EVENT),
    ("GET", "/v1/models"): Audited("models.read", OWN),
    ("GET", "/v1/models/{model_id}"): Audited("models.read", OWN),
    ("POST", "/v1/policy:check"): Audited("policy.check", COUNTED),
    ("POST", "/v1/policy/check"): Audited("policy.check", COUNTED),
    ("GET", "/v1/policies"): Audited("policies.read", LOOK),
    ("GET", "/v1/policies/{policy_id}"): Audited("policies.read", LOOK),
    ("POST", "/v1/policies/{policy_id}"): Audited("policies.publish", EVENT),
    ("POST", "/v1/policies/{policy_id}:activate"): Audited("policies.activate", EVENT),
    ("GET", "/v1/admin/models"): Audited("models.read", NODE_LOOK),
    ("PUT", "/v1/admin/models"): Audited("config.change", EVENT),
    ("GET", "/v1/admin/models/versions"): Audited("models.read", NODE_LOOK),
    ("GET", "/v1/admin/tenants"): Audited("tenants.read", NODE_LOOK),
    ("POST", "/v1/admin/tenants"): Audited("tenants.create", EVENT),
    ("GET", "/v1/admin/tenants/{tenant_id}"): Audited("tenants.read", LOOK),
    ("PUT", "/v1/admin/tenants/{tenant_id}"): Audited("tenants.update", EVENT),
    ("PATCH", "/v1/admin/tenants/{tenant_id}"): Audited("tenants.update", EVENT),
    ("DELETE", "/v1/admin/tenants/{tenant_id}"): Audited("tenants.delete", EVENT),
    ("POST", "/v1/admin/tenants/{tenant_id}:enable"): Audited("tenants.enable", EVENT),
    ("POST", "/v1/admin/tenants/{tenant_id}:disable"): Audited("tenants.disable", EVENT),
    ("GET", "/v1/admin/tenants/{tenant_id}/usage"): Audited("usage.read", LOOK),
    ("POST", "/v1/admin/tenants/{tenant_id}/subjects:erase"): Audited("subjects.erase", EVENT),
    ("GET", "/v1/admin/tenants/{tenant_id}/keys"): Audited("keys.read", LOOK),
    ("POST", "/v1/admin/tenants/{tenant_id}/keys"): Audited("keys.issue", EVENT),
    ("POST", "/v1/admin/tenants/{tenant_id}/keys/{key_id}:rotate"): Audited("keys.rotate", EVENT),
    ("DELETE", "/v1/admin/tenants/{tenant_id}/keys/{key_id}"): Audited("keys.revoke", EVENT),
    ("GET", "/v1/federation/peer"): Audited("peers.read", ABOUT_NODE),
    ("GET", "/v1/federation/peer/capabilities"): Audited("peers.read", ABOUT_NODE),
    ("GET", "/v1/peer/info"): Audited("peers.read", ABOUT_NODE),
    ("GET", "/v1/peer/capabilities"): Audited("peers.read", ABOUT_NODE),
    ("GET", "/v1/federation/peers"): Audited("peers.read", NODE_LOOK),
    ("PUT", "/v1/federation/peers/{stack_id}"): Audited("config.change", EVENT),
    ("DELETE", "/v1/federation/peers/{stack_id}"): Audited("config.change", EVENT),
    ("POST", "/v1/federation/runs:forward"): Audited("federation.runs.forward", EVENT),
    ("GET", "/v1/federation/runs/{run_id}/events"): Audited("runs.read", OWN),
    ("POST", "/v1/federation/runs/{run_id}:cancel"): Audited("federation.runs.cancel", COUNTED),
    ("GET", "/v1/federation/runs/{run_id}/approvals"): Audited("runs.read", OWN),
    ("POST", "/v1/federation/runs/{run_id}/approvals/{approval_id}"): Audited(
        "federation.runs.approve", COUNTED
    ),
    ("POST", "/v1/federation/events:ingest"): Audited("federation.events.ingest", EVENT),
}


def audited(method: str, route: str) -> Audited:
    """Return what the audit has of a route; `KeyError` for one that the table does not have."""
    place = (method, route.replace(":path}", "}"))
    if place not in ROUTES:
        raise KeyError(f"{method} {route} stands in no line of gateways/http/audited.py")
    return ROUTES[place]
