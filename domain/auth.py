"""Who asks: the auth context that every command and port call carries, scopes and roles."""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

USER_SCOPES: Final = frozenset(
    "runs:create runs:read runs:cancel runs:forward agents:read tools:invoke models:invoke "
    "models:list policy:check memory:read memory:write events:read usage:read".split()
)
ADMIN_SCOPES: Final = USER_SCOPES | {
    "agents:write",
    "tools:approve",
    "audit:read",
    "tenants:admin",
}
PLATFORM_SCOPES: Final = ADMIN_SCOPES | {"platform:admin", "federation:peer"}
ROLE_SCOPES: Final = {
    "tenant_user": USER_SCOPES,
    "tenant_service": USER_SCOPES,
    "tenant_admin": ADMIN_SCOPES,
    "platform_admin": PLATFORM_SCOPES,
    "peer": frozenset({"federation:peer"}),
}


RUNTIME_ROLE: Final = "runtime"
"""The node's own executors, who call models for a run; no credential from outside gives it."""


def expand_scopes(scopes: frozenset[str]) -> frozenset[str]:
    """Return `scopes` with `runs:write` spelled out as create and cancel."""
    if "runs:write" in scopes:
        return (scopes - {"runs:write"}) | {"runs:create", "runs:cancel"}
    return scopes


class Principal(BaseModel):
    """A person or a service. Any type but `user` reads as `service`."""

    model_config = ConfigDict(frozen=True)

    principal_id: str
    principal_type: Literal["user", "service"] = "user"
    display_name: str | None = Field(default=None, exclude_if=lambda v: v is None)


LONGEST_TEXT: Final = 256
MOST_TAGS: Final = 32
Short = Annotated[str, Field(max_length=LONGEST_TEXT)]


class PolicyContext(BaseModel):
    """What a policy may look at besides the content.

    It is bounded, for every audit record of a run holds it.
    """

    model_config = ConfigDict(frozen=True)

    data_classification: Short = "internal"
    region: Short = "local"
    purpose: Short = "agent_run"
    consent_tags: Annotated[tuple[Short, ...], Field(max_length=MOST_TAGS)] = Field(
        default=(), exclude_if=lambda v: not v
    )


def shortened(context: Any) -> Any:
    """Return what was given for a policy context within its bounds, anything else as it is."""
    match context:
        case str():
            return context[:LONGEST_TEXT]
        case Mapping():
            return {name: shortened(value) for name, value in context.items()}
        case list() | tuple():
            return [shortened(value) for value in context[:MOST_TAGS]]
    return context


RecordedPolicyContext = Annotated[PolicyContext, BeforeValidator(shortened)]
"""A policy context in an event: those from before there were bounds are cut, so that they fold."""


class AuthContext(BaseModel):
    """The verified caller of one request: exactly one tenant, one principal, its scopes.

    `stack_id` is the peer that the call came through, `None` for a caller of this node's own.
    """

    model_config = ConfigDict(frozen=True)

    tenant_id: str
    principal: Principal
    scopes: frozenset[str]
    roles: tuple[str, ...] = ()
    session: dict[str, Any] | None = None
    policy_context: PolicyContext = PolicyContext()
    stack_id: str | None = Field(default=None, exclude_if=lambda v: v is None)


SYSTEM_PRINCIPAL: Final = Principal(principal_id="svc_agentos", principal_type="service")


def system_auth(tenant_id: str) -> AuthContext:
    """Return the context of AgentOS's own work inside a tenant (policies, sweeps, seeds)."""
    return AuthContext(
        tenant_id=tenant_id,
        principal=SYSTEM_PRINCIPAL,
        scopes=PLATFORM_SCOPES,
        roles=("platform_admin",),
    )
