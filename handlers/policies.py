"""The handlers of a policy's commands: publish a version, activate one."""

from collections.abc import Callable
from typing import Any

from agentos.domain.aggregate import Moment
from agentos.domain.auth import AuthContext
from agentos.domain.envelope import Event
from agentos.domain.errors import ConflictError, InvalidRequestError, NotFoundError
from agentos.domain.policy.builtin import DEFAULT_POLICY
from agentos.domain.policy.compiled import compile_policy
from agentos.domain.policy.errors import PolicyProblemError
from agentos.domain.policy.policy import Policy, policy_ref
from agentos.domain.tenant.access import is_platform_admin, require_admin, require_reach
from agentos.domain.tenant.tenant import Tenant, tenant_ref
from agentos.handlers.audit import record_unchanged
from agentos.handlers.commands import ActivatePolicy, OfPolicy, PublishPolicy
from agentos.handlers.deciding import decide_once
from agentos.handlers.parts import Parts


async def publish_policy(parts: Parts, auth: AuthContext, command: PublishPolicy) -> dict[str, Any]:
    """Add a version; returns `{policy, position}`.

    Raises `InvalidRequestError` for a document that cannot be gone by, so that no such thing
    is ever in the log.
    """
    await _admit(parts, auth, command.tenant_id)
    try:
        compile_policy(command.policy_id, "0", command.document, parts.names)
    except PolicyProblemError as error:
        errors = [{"loc": ["body", "document"], "msg": error.problem}]
        raise InvalidRequestError(error.problem, errors=errors) from error

    def decision(policy: Policy, at: Moment) -> list[Event]:
        return policy.publish(command.document, command.activate, at)

    return await _decide(parts, auth, command, decision)


async def activate_policy(
    parts: Parts, auth: AuthContext, command: ActivatePolicy
) -> dict[str, Any]:
    """Let a version hold; `NotFoundError` for one that is not there."""
    await _admit(parts, auth, command.tenant_id)

    def decision(policy: Policy, at: Moment) -> list[Event]:
        return policy.activate(command.version, at)

    return await _decide(parts, auth, command, decision)


async def require_policy(parts: Parts, tenant_id: str, policy_id: str) -> None:
    """Raise `InvalidRequestError` unless the tenant has such a policy, with an active version."""
    if policy_id == DEFAULT_POLICY:
        return
    policy = await parts.directory.reload(Policy, policy_ref(tenant_id, policy_id))
    if policy.active is None:
        raise _no_policy(
            f"the tenant has no active policy {policy_id}: publish and activate it first"
        )


def require_first_policy(policy_id: str) -> None:
    """Raise `InvalidRequestError` unless it is what a tenant has that is only being made."""
    if policy_id != DEFAULT_POLICY:
        raise _no_policy(
            f"a new tenant has no policy {policy_id} yet: create it with {DEFAULT_POLICY}, "
            f"publish and activate {policy_id}, then set it"
        )


def _no_policy(msg: str) -> InvalidRequestError:
    return InvalidRequestError(msg, errors=[{"loc": ["body", "default_policy_id"], "msg": msg}])


async def _admit(parts: Parts, auth: AuthContext, tenant_id: str) -> None:
    """Raise unless the caller reaches the tenant; its own must be active, a platform's need not."""
    require_admin(auth)
    require_reach(auth, tenant_id)
    if not is_platform_admin(auth):
        await parts.directory.active_tenant(tenant_id)
    elif (await parts.directory.reload(Tenant, tenant_ref(tenant_id))).status in (None, "deleted"):
        raise NotFoundError("no such tenant")


async def _decide(
    parts: Parts,
    auth: AuthContext,
    command: OfPolicy,
    decision: Callable[[Policy, Moment], list[Event]],
) -> dict[str, Any]:
    at = parts.moment_of(auth, command)
    ref = policy_ref(command.tenant_id, command.policy_id)
    decided = await decide_once(parts, Policy, ref, at, decision)
    if not decided.is_same:
        raise ConflictError("the idempotency key was used for a different request")
    if not decided.events:
        is_one = isinstance(command, PublishPolicy)
        action = "policies.publish" if is_one else "policies.activate"
        await record_unchanged(parts, auth, command, action)
    return {"policy": decided.aggregate.view(), "position": decided.aggregate.position}
