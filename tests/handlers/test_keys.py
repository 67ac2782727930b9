"""The key's commands: what a key may do, who may make it, and that a secret is shown once."""

from typing import Any

import pytest

from agentos.domain.auth import ADMIN_SCOPES, AuthContext
from agentos.domain.errors import (
    ConflictError,
    ForbiddenError,
    InvalidRequestError,
    InvalidStateTransitionError,
    NotFoundError,
)
from agentos.domain.key.key import Key, hash_secret, key_ref, split_secret
from tests.domain.given import T0
from tests.handlers.node import Node, a_node
from tests.handlers.test_tenants import admin, audited_in, made, send
from tests.handlers.virtual import virtual_time

OWN = admin("tenant_admin", "tnt_a")


async def key_of(node: Node, key_id: str, tenant_id: str = "tnt_a") -> Key:
    """Return a key as the log has it."""
    ref = key_ref(tenant_id, key_id)
    return Key(ref).fold(await node.log.read(ref))


def narrow(auth: AuthContext, *scopes: str) -> AuthContext:
    """Return a caller whose credential has fewer scopes."""
    return auth.model_copy(update={"scopes": frozenset(scopes)})


@virtual_time
async def test_a_key_is_issued_and_only_its_hash_is_kept() -> None:
    async with a_node() as node:
        parts = await made(node)
        answer = await send(
            parts, "key.issue", auth=OWN, name="ci", roles=["tenant_user"], scopes=["runs:write"]
        )
        view, secret = answer["key"], answer["secret"]
        assert view["scopes"] == ["runs:cancel", "runs:create"]
        assert secret.startswith(view["prefix"])
        key_id, digest = split_secret(secret) or ("", "")
        assert key_id == view["key_id"]
        key = await key_of(node, key_id)
        assert key.accepts(digest, T0)
        assert view == key.view()
        everything = b"".join(r.body for r in node.log._records)
        assert secret.encode() not in everything
        assert secret.rpartition("_")[2].encode() not in everything
        (_, audited) = await audited_in(node)
        assert (audited["action"], audited["resource"]) == ("keys.issue", key_id)


@virtual_time
async def test_a_repeat_shows_no_secret_again() -> None:
    async with a_node() as node:
        parts = await made(node)
        first = await send(parts, "key.issue", auth=OWN, command_id="cmd_1")
        with pytest.raises(ConflictError) as caught:
            await send(parts, "key.issue", auth=OWN, command_id="cmd_1")
        key_id = first["key"]["key_id"]
        assert caught.value.details["key_id"] == key_id
        await send(parts, "key.rotate", auth=OWN, key_id=key_id, command_id="cmd_2")
        with pytest.raises(ConflictError):
            await send(parts, "key.rotate", auth=OWN, key_id=key_id, command_id="cmd_2")
        for _ in range(2):
            revoked = await send(parts, "key.revoke", auth=OWN, key_id=key_id, command_id="cmd_3")
            assert revoked["key"]["status"] == "revoked"
        assert (await key_of(node, key_id)).sequence == 3
        assert len(await audited_in(node)) == 4


@virtual_time
async def test_rotation_with_overlap_and_revocation_at_once() -> None:
    async with a_node() as node:
        parts = await made(node)
        old = (await send(parts, "key.issue", auth=OWN))["secret"]
        key_id, _ = split_secret(old) or ("", "")
        new = (await send(parts, "key.rotate", auth=OWN, key_id=key_id, overlap_seconds=60))[
            "secret"
        ]
        key = await key_of(node, key_id)
        now = node.clock.now_ms()
        assert key.accepts(hash_secret(new), now)
        assert key.accepts(hash_secret(old), now + 59_000)
        assert not key.accepts(hash_secret(old), now + 60_000)
        await send(parts, "key.rotate", auth=OWN, key_id=key_id, overlap_seconds=0)
        key = await key_of(node, key_id)
        assert not key.accepts(hash_secret(new), node.clock.now_ms())
        await send(parts, "key.revoke", auth=OWN, key_id=key_id)
        with pytest.raises(InvalidStateTransitionError):
            await send(parts, "key.rotate", auth=OWN, key_id=key_id)
        for overlap in (-1, 10**9):
            with pytest.raises(ValueError, match="overlap_seconds"):
                await send(parts, "key.rotate", key_id=key_id, overlap_seconds=overlap)


@virtual_time
async def test_a_key_has_no_more_than_its_roles_and_its_issuer() -> None:
    async with a_node() as node:
        parts = await made(node)
        full = await send(parts, "key.issue", auth=OWN, roles=["tenant_admin"])
        assert set(full["key"]["scopes"]) == ADMIN_SCOPES
        for roles in (["platform_admin"], ["tenant_user", "platform_admin"], ["peer"]):
            with pytest.raises(ForbiddenError):
                await send(parts, "key.issue", auth=OWN, roles=roles, scopes=["runs:read"])
        misfits: list[dict[str, Any]] = [
            {"roles": ["tenant_user"], "scopes": ["agents:write"]},
            {"roles": ["king"]},
            {"expires_at": T0 - 1},
        ]
        for body in misfits:
            with pytest.raises(InvalidRequestError):
                await send(parts, "key.issue", auth=OWN, **body)
        thin = narrow(OWN, "tenants:admin", "runs:read")
        given = await send(parts, "key.issue", auth=thin, roles=["tenant_user"])
        assert given["key"]["scopes"] == ["runs:read"]
        with pytest.raises(ForbiddenError):
            await send(parts, "key.issue", auth=thin, roles=["tenant_user"], scopes=["runs:create"])
        with pytest.raises(ForbiddenError):
            await send(parts, "key.issue", auth=narrow(OWN, "runs:read"))
        root = await send(parts, "key.issue", roles=["platform_admin"])
        assert "platform:admin" in root["key"]["scopes"]


@virtual_time
async def test_nobody_gets_hold_of_a_key_above_them() -> None:
    async with a_node() as node:
        parts = await made(node)
        root = (await send(parts, "key.issue", roles=["platform_admin"]))["key"]["key_id"]
        own = (await send(parts, "key.issue", auth=OWN, roles=["tenant_admin"]))["key"]["key_id"]
        for name in ("rotate", "revoke"):
            with pytest.raises(ForbiddenError):
                await send(parts, f"key.{name}", auth=OWN, key_id=root)
        with pytest.raises(ForbiddenError):
            await send(parts, "key.rotate", auth=narrow(OWN, "tenants:admin"), key_id=own)
        principal = {"principal_id": "usr_platform_admin"}
        with pytest.raises(ForbiddenError):
            await send(parts, "key.issue", auth=OWN, principal=principal)
        await send(parts, "key.issue", principal=principal)
        await send(parts, "key.revoke", key_id=own)


@virtual_time
async def test_other_tenants_keys_are_not_there() -> None:
    async with a_node() as node:
        parts = await made(node)
        await send(parts, "tenant.create", "tnt_b", profile={"name": "B"})
        key_id = (await send(parts, "key.issue", "tnt_b"))["key"]["key_id"]
        for auth, tenant_id in ((OWN, "tnt_b"), (OWN, "tnt_a"), (admin(), "tnt_a")):
            for name in ("rotate", "revoke"):
                with pytest.raises(NotFoundError):
                    await send(parts, f"key.{name}", tenant_id, auth=auth, key_id=key_id)
        for tenant_id in ("tnt_b", "tnt_none"):
            with pytest.raises(NotFoundError):
                await send(parts, "key.issue", tenant_id, auth=OWN)
        with pytest.raises(NotFoundError):
            await send(parts, "key.issue", "tnt_none")


@virtual_time
async def test_a_subscriber_key_is_not_promised_before_it_can_be_kept() -> None:
    async with a_node() as node:
        parts = await made(node)
        with pytest.raises(ConflictError) as caught:
            await send(parts, "key.issue", auth=OWN, kind="subscriber")
        assert caught.value.details["missing"]
