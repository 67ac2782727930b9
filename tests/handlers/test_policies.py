"""The policies' commands: versions, what holds, who may, and what cannot be gone by."""

from dataclasses import replace
from typing import Any

import pytest

from agentos.domain.auth import ROLE_SCOPES, AuthContext, Principal
from agentos.domain.errors import (
    ConflictError,
    ForbiddenError,
    InvalidRequestError,
    NotFoundError,
    TenantDisabledError,
)
from agentos.domain.policy.policy import Policy, policy_ref
from agentos.domain.tenant.tenant import Profile, Tenant, tenant_ref
from agentos.handlers.parts import Parts
from agentos.handlers.routes import handle
from tests.domain.given import TRACE, moment
from tests.domain.policy.given_names import FewNames
from tests.handlers.auditor.audited import audit_all, records_of
from tests.handlers.node import Node, a_node, caller
from tests.handlers.virtual import virtual_time

BLOCKS_CARDS = {
    "name": "Cards",
    "rules": [{"name": "cards", "effect": "block", "when": {"pii_types": ["credit_card"]}}],
}


def admin(role: str = "tenant_admin", tenant_id: str = "tnt_a") -> AuthContext:
    """Return an administrator."""
    principal = Principal(principal_id=f"usr_{role}")
    scopes = ROLE_SCOPES[role]
    return AuthContext(tenant_id=tenant_id, principal=principal, scopes=scopes, roles=(role,))


async def send(
    parts: Parts, name: str, *, auth: AuthContext | None = None, **command: Any
) -> dict[str, Any]:
    """Send a command about `pol_a` of `tnt_a`."""
    full = {"tenant_id": "tnt_a", "policy_id": "pol_a", "traceparent": TRACE, **command}
    wire = {"auth": (auth or admin()).model_dump(mode="json"), "command": full}
    return await handle(parts, name, wire)


async def actions(node: Node) -> list[str]:
    """Return what the tenant's audit chain has."""
    await audit_all(node.log)
    records = await records_of(node.log, "tnt_a")
    return [r["action"] for r in records if r["action"].startswith("policies.")]


@virtual_time
async def test_versions_are_published_and_activated() -> None:
    async with a_node() as node:
        await node.tenant()
        parts = await node.handlers()
        first = await send(parts, "policy.publish", document=BLOCKS_CARDS)
        assert first["policy"]["latest_version"] == 1
        assert first["policy"]["active_version"] is None
        second = await send(parts, "policy.publish", document=BLOCKS_CARDS, activate=True)
        assert second["policy"]["active_version"] == second["policy"]["latest_version"] == 2
        back = await send(parts, "policy.activate", version=1)
        assert back["policy"]["active_version"] == 1
        versions = back["policy"]["versions"]
        assert [version["version"] for version in versions] == [2, 1]
        assert versions[0]["published_by"] == "usr_tenant_admin"
        policy = Policy(policy_ref("tnt_a", "pol_a")).fold(
            await node.log.read(policy_ref("tnt_a", "pol_a"))
        )
        assert (policy.active, policy.sequence, policy.position) == (1, 4, back["position"])
        publish, activate = "policies.publish", "policies.activate"
        assert await actions(node) == [publish, publish, activate, activate]


@virtual_time
async def test_the_active_version_again_changes_nothing() -> None:
    async with a_node() as node:
        await node.tenant()
        parts = await node.handlers()
        first = await send(parts, "policy.publish", document=BLOCKS_CARDS, activate=True)
        again = await send(parts, "policy.activate", version=1)
        assert again == first
        assert await actions(node) == ["policies.publish", "policies.activate"]


@virtual_time
async def test_own_versions_of_the_default_begin_behind_the_built_in_one() -> None:
    async with a_node() as node:
        await node.tenant()
        parts = await node.handlers()
        own = await send(
            parts, "policy.publish", policy_id="pol_default", document=BLOCKS_CARDS, activate=True
        )
        assert own["policy"]["active_version"] == 2
        back = await send(parts, "policy.activate", policy_id="pol_default", version=1)
        assert back["policy"]["active_version"] == 1
        assert back["policy"]["versions"][-1]["document"]["name"] == "AgentOS default"


@virtual_time
async def test_a_repeated_command_is_answered_as_the_first_time() -> None:
    async with a_node() as node:
        await node.tenant()
        parts, other = await node.handlers(), await node.handlers()
        first = await send(parts, "policy.publish", document=BLOCKS_CARDS, command_id="cmd_1")
        await send(parts, "policy.publish", document=BLOCKS_CARDS, activate=True)
        for process in (parts, other):
            again = await send(process, "policy.publish", document=BLOCKS_CARDS, command_id="cmd_1")
            assert again == first
        empty = {"name": "Other", "rules": []}
        with pytest.raises(ConflictError):
            await send(parts, "policy.publish", document=empty, command_id="cmd_1")
        publish, activate = "policies.publish", "policies.activate"
        assert await actions(node) == [publish, publish, activate]


@pytest.mark.parametrize(
    ("when", "said"),
    [
        ({"pii_types": ["person"]}, "no recogniser for it is installed"),
        ({"pii_types": ["emial"]}, "there is no kind 'emial'"),
        ({"content_patterns": [{"name": "x", "regex": "(a+)+"}]}, "repeats without an end"),
        ({"content_patterns": [{"name": "email", "regex": "abc"}]}, "is taken"),
    ],
)
@virtual_time
async def test_what_cannot_be_gone_by_is_not_published(when: dict[str, Any], said: str) -> None:
    async with a_node() as node:
        await node.tenant()
        parts = await node.handlers()
        document = {"name": "X", "rules": [{"name": "x", "effect": "block", "when": when}]}
        with pytest.raises(InvalidRequestError, match=said):
            await send(parts, "policy.publish", document=document)
        assert await node.log.read(policy_ref("tnt_a", "pol_a")) == []
        assert await actions(node) == []


@virtual_time
async def test_who_may() -> None:
    async with a_node() as node:
        await node.tenant()
        await node.tenant("tnt_b")
        parts = await node.handlers()
        with pytest.raises(ForbiddenError):
            await send(parts, "policy.publish", auth=caller(), document=BLOCKS_CARDS)
        other = admin(tenant_id="tnt_b")
        with pytest.raises(NotFoundError):
            await send(parts, "policy.publish", auth=other, document=BLOCKS_CARDS)
        platform = admin("platform_admin", "tnt_b")
        answer = await send(parts, "policy.publish", auth=platform, document=BLOCKS_CARDS)
        assert answer["policy"]["tenant_id"] == "tnt_a"
        with pytest.raises(NotFoundError):
            await send(parts, "policy.activate", auth=platform, tenant_id="tnt_c", version=1)
        with pytest.raises(NotFoundError):
            await send(parts, "policy.activate", version=2)
        with pytest.raises(NotFoundError):
            await send(parts, "policy.activate", policy_id="pol_never", version=1)


@virtual_time
async def test_the_admin_of_a_disabled_tenant_may_nothing() -> None:
    async with a_node() as node:
        tenant = await node.tenant()
        parts = await node.handlers()
        tenant = Tenant(tenant_ref("tnt_a")).fold(await node.log.read(tenant.ref))
        await node.write(tenant.ref, tenant.disable("drain", moment()), tenant.position)
        with pytest.raises(TenantDisabledError):
            await send(parts, "policy.publish", document=BLOCKS_CARDS)


@virtual_time
async def test_a_tenant_is_not_given_a_policy_that_is_not_there() -> None:
    async with a_node() as node:
        parts = await node.handlers()
        platform = admin("platform_admin", "tnt_root")
        profile = Profile(name="A").model_dump(mode="json")
        await send(parts, "tenant.create", auth=platform, profile=profile)
        changes = {"default_policy_id": "pol_a"}
        with pytest.raises(InvalidRequestError, match="no active policy pol_a"):
            await send(parts, "tenant.update", auth=platform, changes=changes)
        await send(parts, "policy.publish", auth=platform, document=BLOCKS_CARDS)
        with pytest.raises(InvalidRequestError, match="no active policy pol_a"):
            await send(parts, "tenant.update", auth=platform, changes=changes)
        await send(parts, "policy.activate", auth=platform, version=1)
        for is_whole in (False, True):
            answer = await send(
                parts, "tenant.update", auth=platform, changes=changes, is_whole=is_whole
            )
            assert answer["tenant"]["default_policy_id"] == "pol_a"


@virtual_time
async def test_a_policy_about_names_needs_something_that_finds_them() -> None:
    rule = {"name": "r", "effect": "redact", "when": {"pii_types": ["person"]}}
    document = {"name": "P", "rules": [rule]}
    async with a_node() as node:
        await node.tenant()
        parts = await node.handlers()
        with pytest.raises(InvalidRequestError, match="no recogniser for it is installed"):
            await send(parts, "policy.publish", document=document)
        able = replace(parts, names=FewNames())
        answer = await send(able, "policy.publish", document=document, activate=True)
        assert answer["policy"]["active_version"] == 1


@virtual_time
async def test_a_new_tenant_has_no_policy_but_the_builtin_one() -> None:
    async with a_node() as node:
        parts = await node.handlers()
        platform = admin("platform_admin", "tnt_root")
        profile = Profile(name="A", default_policy_id="pol_a").model_dump(mode="json")
        with pytest.raises(InvalidRequestError, match="create it with pol_default") as raised:
            await send(parts, "tenant.create", auth=platform, profile=profile)
        assert raised.value.details["errors"][0]["loc"] == ["body", "default_policy_id"]
        assert await node.log.last(tenant_ref("tnt_a")) is None
        profile["default_policy_id"] = "pol_default"
        await send(parts, "tenant.create", auth=platform, profile=profile)


@virtual_time
@pytest.mark.parametrize("policy_id", ["pol_b", "pol_a.b", "none", "", 5, ["pol_a"], {}])
@pytest.mark.parametrize("is_whole", [False, True])
async def test_what_is_no_policy_of_the_tenant_changes_nothing(
    policy_id: Any, is_whole: bool
) -> None:
    """Also not another tenant's."""
    async with a_node() as node:
        parts = await node.handlers()
        platform = admin("platform_admin", "tnt_root")
        profile = Profile(name="A").model_dump(mode="json")
        for tenant_id in ("tnt_a", "tnt_b"):
            await send(parts, "tenant.create", auth=platform, tenant_id=tenant_id, profile=profile)
        more: dict[str, Any] = {"tenant_id": "tnt_b", "policy_id": "pol_b", "activate": True}
        await send(parts, "policy.publish", auth=platform, document=BLOCKS_CARDS, **more)
        before = await node.log.last(tenant_ref("tnt_a"))
        with pytest.raises(InvalidRequestError):
            await send(
                parts,
                "tenant.update",
                auth=platform,
                changes={"name": "A", "default_policy_id": policy_id},
                is_whole=is_whole,
            )
        assert await node.log.last(tenant_ref("tnt_a")) == before


@virtual_time
async def test_of_a_tenant_that_is_not_there_only_that_is_said() -> None:
    async with a_node() as node:
        parts = await node.handlers()
        platform = admin("platform_admin", "tnt_root")
        with pytest.raises(NotFoundError):
            await send(
                parts, "tenant.update", auth=platform, changes={"default_policy_id": "pol_a"}
            )
