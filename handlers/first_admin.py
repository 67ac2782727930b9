"""The first tenant of a `prod` node, with its admin's key and the platform admin's."""

from collections.abc import Callable
from typing import Any, Final

from agentos.domain.auth import AuthContext, Principal, system_auth
from agentos.domain.envelope import NO_TRACE
from agentos.domain.errors import ConflictError
from agentos.domain.ids import derived_id
from agentos.domain.key.key import Key, KeyRevoked
from agentos.domain.tenant.tenant import Profile, Tenant
from agentos.handlers.commands import CreateTenant, IssueKey, RevokeKey
from agentos.handlers.keys import issue_key, revoke_key
from agentos.handlers.parts import Parts
from agentos.handlers.tenants import create_tenant

PLATFORM_ADMIN: Final = "usr_platform_admin"


async def make_first_admin(
    parts: Parts, tenant_id: str, admin_id: str, *, again: bool, begin: Callable[[], None]
) -> dict[str, Any]:
    """Make the tenant and both keys; returns `{tenant, keys: {role: {key, secret}}}`.

    Raises `ConflictError` (`details.tenants`) when the log has a tenant. `begin` is called
    before the first event is written. `again` says that an earlier try began and lost its
    answer: then that tenant may be there, and what keys it has are revoked.
    """
    there = sorted({last.ref.tenant_id for last in await parts.log.last_of_kind(Tenant.KIND)})
    if there and not (again and there == [tenant_id]):
        raise ConflictError("this node has its first tenant already", tenants=there)
    begin()
    auth = system_auth(tenant_id)
    create = CreateTenant(
        traceparent=NO_TRACE,
        command_id=derived_id("cmd", "init", tenant_id),
        tenant_id=tenant_id,
        profile=Profile(name=tenant_id),
    )
    made = await create_tenant(parts, auth, create)
    await _revoke_all(parts, auth)
    return {
        "tenant": made["tenant"],
        "keys": {
            "tenant_admin": await _issue(parts, auth, "tenant_admin", admin_id),
            "platform_admin": await _issue(parts, auth, "platform_admin", PLATFORM_ADMIN),
        },
    }


async def _revoke_all(parts: Parts, auth: AuthContext) -> None:
    for last in await parts.log.last_of_kind(Key.KIND, auth.tenant_id):
        if last.types[-1] != KeyRevoked.TYPE:
            key_id = last.ref.aggregate_id
            command = RevokeKey(traceparent=NO_TRACE, tenant_id=auth.tenant_id, key_id=key_id)
            await revoke_key(parts, auth, command)


async def _issue(parts: Parts, auth: AuthContext, role: str, principal_id: str) -> dict[str, Any]:
    command = IssueKey(
        traceparent=NO_TRACE,
        tenant_id=auth.tenant_id,
        name=f"first {role}",
        principal=Principal(principal_id=principal_id),
        roles=(role,),
    )
    issued = await issue_key(parts, auth, command)
    return {"key": issued["key"], "secret": issued["secret"]}
