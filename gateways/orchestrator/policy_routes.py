"""The routes of policies on one page."""

from typing import Final

from agentos.gateways.http.routing import Described
from agentos.gateways.orchestrator import policies
from agentos.gateways.orchestrator import policy_schemas as s
from agentos.gateways.orchestrator import queries as q
from agentos.gateways.orchestrator.admin_routes import READ, WRITE, Table

POLICIES_PATH: Final = "/v1/policies"
ONE: Final = f"{POLICIES_PATH}/{{policy_id}}"
POLICY: Final = {200: s.PolicyAnswer}
KNOWN: Final = (policies.POLICY_ID, policies.OF_TENANT)

# `…:activate` comes first: the other path would take it for an id.
POLICIES: Final[Table] = (
    (
        "GET",
        POLICIES_PATH,
        policies.list_policies,
        Described(
            "List policies",
            {200: s.PoliciesAnswer},
            (policies.OF_TENANT, q.LIMIT, q.CURSOR),
            errors=READ,
            tag="policies",
        ),
    ),
    (
        "GET",
        ONE,
        policies.get_policy,
        Described("Get a policy", POLICY, KNOWN, errors=READ, tag="policies"),
    ),
    (
        "POST",
        f"{ONE}:activate",
        policies.activate_policy,
        Described(
            "Activate a version of a policy",
            POLICY,
            (*KNOWN, q.IDEMPOTENCY_KEY),
            s.PolicyActivate,
            errors=WRITE,
            tag="policies",
        ),
    ),
    (
        "POST",
        ONE,
        policies.publish_policy,
        Described(
            "Publish a version of a policy",
            {201: s.PolicyAnswer},
            (*KNOWN, q.IDEMPOTENCY_KEY),
            s.PolicyPublish,
            errors=WRITE,
            tag="policies",
        ),
    ),
)
