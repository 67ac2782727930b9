"""The handlers of a tenant's commands: create, update, enable, disable, delete."""

from collections.abc import Callable, Mapping
from typing import Any, Final

import structlog
from pydantic import ValidationError

from agentos.domain.admission.budgets import token_policy
from agentos.domain.aggregate import Moment
from agentos.domain.audit.chain import NODE_TENANT
from agentos.domain.auth import AuthContext
from agentos.domain.envelope import Event
from agentos.domain.errors import AgentOSError, ConflictError, ForbiddenError, NotFoundError
from agentos.domain.ids import is_named_id
from agentos.domain.tenant.access import (
    PLATFORM,
    is_platform_admin,
    require_admin,
    require_platform,
    require_reach,
)
from agentos.domain.tenant.quotas import effective, raises_any
from agentos.domain.tenant.tenant import Profile, Tenant, tenant_ref
from agentos.handlers.audit import record_unchanged
from agentos.handlers.closed_tenants import cancel_runs_of
from agentos.handlers.commands import (
    CreateTenant,
    DeleteTenant,
    DisableTenant,
    EnableTenant,
    OfTenant,
    UpdateTenant,
)
from agentos.handlers.deciding import decide_once
from agentos.handlers.middleware.errors import invalid_request
from agentos.handlers.parts import Parts
from agentos.handlers.policies import require_first_policy, require_policy

log = structlog.get_logger()
PLATFORM_FIELDS: Final = (
    "name",
    "plan_tier",
    "default_policy_id",
    "entitlements",
    "policy",
    "privacy",
    "retention",
)
ACTIONS: Final[Mapping[type[OfTenant], str]] = {
    CreateTenant: "tenants.create",
    UpdateTenant: "tenants.update",
    EnableTenant: "tenants.enable",
    DisableTenant: "tenants.disable",
    DeleteTenant: "tenants.delete",
}
Decision = Callable[[Tenant, Moment], list[Event]]


async def create_tenant(parts: Parts, auth: AuthContext, command: CreateTenant) -> dict[str, Any]:
    """Make a tenant; `ConflictError` when its id was ever given. Returns `{tenant, position}`."""
    require_admin(auth)
    require_platform(auth, "create a tenant")
    if command.tenant_id == NODE_TENANT:
        raise ConflictError("the tenant id is the node's own")

    require_first_policy(command.profile.default_policy_id)

    def decision(tenant: Tenant, at: Moment) -> list[Event]:
        token_policy(command.profile.policy)
        parts.retention.require(command.profile.retention)
        return tenant.create(command.profile, at)

    return await _decide(parts, auth, command, decision)


async def update_tenant(parts: Parts, auth: AuthContext, command: UpdateTenant) -> dict[str, Any]:
    """Give a tenant another profile: `changes` as a whole, or merged into what is there.

    The merge (RFC 7396) is made here, under the lock of the append, so that two changes at
    once are both kept. A tenant's own admin may set metadata and lower quotas.
    """
    await _admit(parts, auth, command.tenant_id)

    def decision(tenant: Tenant, at: Moment) -> list[Event]:
        _require_there(tenant)
        profile = _changed(tenant.profile, command)
        if not is_platform_admin(auth):
            _require_own_to_set(tenant, profile)
        if profile.policy != tenant.profile.policy:
            token_policy(profile.policy)  # a budget that nobody can read would stop every call
        if profile.retention != tenant.profile.retention:
            parts.retention.require(profile.retention)
        return tenant.update(profile, at)

    policy_id = command.changes.get("default_policy_id")
    # What is no policy's id, the decision refuses; so it does what only a platform admin may.
    if isinstance(policy_id, str) and is_named_id(policy_id) and is_platform_admin(auth):
        _require_there(await parts.directory.reload(Tenant, tenant_ref(command.tenant_id)))
        await require_policy(parts, command.tenant_id, policy_id)
    return await _decide(parts, auth, command, decision)


async def enable_tenant(parts: Parts, auth: AuthContext, command: EnableTenant) -> dict[str, Any]:
    """Let a tenant act again."""
    await _admit(parts, auth, command.tenant_id)
    require_platform(auth, "enable a tenant")

    def decision(tenant: Tenant, at: Moment) -> list[Event]:
        _require_there(tenant)
        return tenant.enable(at)

    return await _decide(parts, auth, command, decision)


async def disable_tenant(parts: Parts, auth: AuthContext, command: DisableTenant) -> dict[str, Any]:
    """Let a tenant do nothing more; with `runs="cancel"` what it has running is canceled.

    The change stands even when a cancel fails here: the sweep sees it through. Raises
    `ConflictError` for the caller's own tenant: nobody could come in to enable it.
    """
    await _admit(parts, auth, command.tenant_id)
    require_platform(auth, "disable a tenant")
    if auth.tenant_id == command.tenant_id:
        raise ConflictError(
            "your own credential is of this tenant and could not enable it again; "
            "use a platform admin's of another tenant"
        )

    def decision(tenant: Tenant, at: Moment) -> list[Event]:
        _require_there(tenant)
        return tenant.disable(command.runs, at)

    answer = await _decide(parts, auth, command, decision)
    try:
        await cancel_runs_of(parts, command.tenant_id)
    except (AgentOSError, TimeoutError) as error:
        log.warning("left to the sweep", tenant_id=command.tenant_id, error=str(error))
    return answer


async def delete_tenant(parts: Parts, auth: AuthContext, command: DeleteTenant) -> dict[str, Any]:
    """Remove a disabled tenant for ever; `ConflictError` unless `confirm` repeats its id.

    Its events and its audit chain stay; its id is never given again.
    """
    await _admit(parts, auth, command.tenant_id)
    require_platform(auth, "delete a tenant")

    def decision(tenant: Tenant, at: Moment) -> list[Event]:
        _require_there(tenant)
        events = tenant.delete(at)
        if command.confirm != command.tenant_id:
            raise ConflictError("confirm the deletion: confirm=<tenant_id>")
        return events

    return await _decide(parts, auth, command, decision)


async def _admit(parts: Parts, auth: AuthContext, tenant_id: str) -> None:
    """Raise unless the caller reaches the tenant; its own must be active, a platform's need not."""
    require_admin(auth)
    if not is_platform_admin(auth):
        await parts.directory.active_tenant(auth.tenant_id)
    require_reach(auth, tenant_id)


def _require_there(tenant: Tenant) -> None:
    if tenant.status in (None, "deleted"):
        raise NotFoundError("no such tenant")


def _changed(profile: Profile, command: UpdateTenant) -> Profile:
    base = {"name": profile.name} if command.is_whole else profile.model_dump(mode="json")
    try:
        return Profile.model_validate(merged(base, command.changes))
    except ValidationError as invalid:
        raise invalid_request(invalid) from invalid


def merged(base: Any, patch: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` as a JSON merge patch changes it: objects go into each other, null removes."""
    result = dict(base) if isinstance(base, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        elif isinstance(value, dict):
            result[name] = merged(result.get(name), value)
        else:
            result[name] = value
    return result


def _require_own_to_set(tenant: Tenant, profile: Profile) -> None:
    for name in PLATFORM_FIELDS:
        if getattr(profile, name) != getattr(tenant.profile, name):
            raise ForbiddenError(
                f"only a platform admin may change {name}", required_scope=PLATFORM
            )
    if raises_any(tenant.limits, effective(profile.plan_tier, profile.quotas)):
        raise ForbiddenError("only a platform admin may raise a quota", required_scope=PLATFORM)


async def _decide(
    parts: Parts, auth: AuthContext, command: OfTenant, decision: Decision
) -> dict[str, Any]:
    tenant_id = command.tenant_id
    at = parts.moment_of(auth, command)
    ref = tenant_ref(tenant_id)
    decided = await decide_once(parts, Tenant, ref, at, decision)
    if not decided.is_same:
        raise ConflictError("the idempotency key was used for a different request")
    if not decided.events:
        await record_unchanged(parts, auth, command, ACTIONS[type(command)])
    await parts.directory.reload(Tenant, ref)  # this process is the first to go by it
    return {"tenant": decided.aggregate.view(), "position": decided.aggregate.position}
