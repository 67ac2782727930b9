"""Who asks: credentials that verify, those that do not, and development headers."""

import time
from typing import Any

import jwt
import pytest

from agentos.domain.auth import ADMIN_SCOPES, PLATFORM_SCOPES, USER_SCOPES
from agentos.domain.errors import (
    AgentOSError,
    InvalidRequestError,
    TenantMismatchError,
    UnauthorizedError,
)
from agentos.gateways.http.identity import MAX_CACHED, LocalIdentity
from tests.gateways.conftest import SECRET, Door, bearer, token

DEV = {"X-Tenant-Id": "tnt_dev", "X-Principal-Id": "usr_dev"}


def identity(**options: Any) -> LocalIdentity:
    options.setdefault("allow_dev_headers", True)
    return LocalIdentity(SECRET, **options)


def raw(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode()) for name, value in headers.items()]


@pytest.mark.parametrize(
    ("claims", "scopes"),
    [
        ({"roles": ["tenant_user"]}, USER_SCOPES),
        ({"roles": ["tenant_admin"]}, ADMIN_SCOPES),
        ({"roles": "platform_admin"}, PLATFORM_SCOPES),
        ({"roles": ["peer"]}, {"federation:peer"}),
        ({"roles": ["nobody"]}, set()),
        ({"roles": None}, set()),
        ({"scope": "runs:read agents:write"}, {"runs:read"}),
        ({"scopes": ["runs:write"]}, {"runs:create", "runs:cancel"}),
        ({"roles": None, "scp": "runs:read,usage:read"}, {"runs:read", "usage:read"}),
    ],
)
async def test_scopes_come_from_roles_and_are_narrowed(
    claims: dict[str, Any], scopes: set[str]
) -> None:
    auth = await identity().identify(raw(bearer(**claims)))
    assert auth.scopes == scopes
    assert auth.tenant_id == "tnt_a"


async def test_both_spellings_of_claims() -> None:
    auth = await identity().identify(
        raw(bearer(tenant_id=None, tid="tnt_b", sub=None, principal_id="svc_x", subject_type="bot"))
    )
    assert auth.tenant_id == "tnt_b"
    assert auth.principal.principal_id == "svc_x"
    assert auth.principal.principal_type == "service"


@pytest.mark.parametrize(
    "claims",
    [
        {"exp": time.time() - 90},
        {"exp": None},
        {"iss": "someone-else"},
        {"iss": None},
        {"aud": "another"},
        {"aud": None},
        {"nbf": time.time() + 86_400},
        {"tenant_id": "tnt.a"},
        {"tenant_id": 7},
        {"tenant_id": None},
        {"sub": None},
        {"principal_id": "a\nb"},
        {"principal_id": "x" * 257},
    ],
)
async def test_a_token_that_does_not_fit_is_unauthorized(claims: dict[str, Any]) -> None:
    with pytest.raises(UnauthorizedError):
        await identity().identify(raw(bearer(**claims)))


async def test_clocks_may_differ_by_a_minute() -> None:
    auth = await identity().identify(raw(bearer(exp=time.time() - 30, nbf=time.time() + 30)))
    assert auth.tenant_id == "tnt_a"


@pytest.mark.parametrize("algorithm", ["none", "HS384", "HS512"])
async def test_the_algorithm_is_pinned(algorithm: str) -> None:
    claims = jwt.decode(token(), options={"verify_signature": False})
    key = "" if algorithm == "none" else SECRET * 2
    forged = jwt.encode(claims, key, algorithm)
    with pytest.raises(UnauthorizedError):
        await identity().identify(raw({"Authorization": f"Bearer {forged}"}))


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", "Basic abc", "Bearer x.y.z", "Bearer " + "x" * 20_000]
)
async def test_what_is_no_bearer_token_is_unauthorized(header: str) -> None:
    with pytest.raises(UnauthorizedError):
        await identity().identify(raw({"Authorization": header, **DEV}))


async def test_a_signature_of_another_secret_is_unauthorized() -> None:
    claims = jwt.decode(token(), options={"verify_signature": False})
    forged = jwt.encode(claims, "another secret of at least thirty-two", "HS256")
    with pytest.raises(UnauthorizedError):
        await identity().identify(raw({"Authorization": f"Bearer {forged}"}))


@pytest.mark.parametrize(
    ("headers", "error"),
    [
        ({}, UnauthorizedError),
        ({"X-Tenant-Id": "tnt_a"}, UnauthorizedError),
        ({"X-API-Key": "abc"}, UnauthorizedError),
        ({"X-API-Key": "abc", **DEV}, UnauthorizedError),
        ({"X-API-Key": "abc", **bearer()}, InvalidRequestError),
        ({**bearer(), "X-Tenant-Id": "tnt_other"}, TenantMismatchError),
        ({**DEV, "X-Tenant-Id": "tnt_a.>"}, InvalidRequestError),
        ({**DEV, "X-Tenant-Id": "tnt a"}, InvalidRequestError),
        ({**DEV, "X-Principal-Id": ""}, InvalidRequestError),
    ],
)
async def test_credentials_that_do_not_identify(
    headers: dict[str, str], error: type[AgentOSError]
) -> None:
    with pytest.raises(error):
        await identity().identify(raw(headers))


async def test_a_tenant_header_may_repeat_the_tenant() -> None:
    auth = await identity().identify(raw({**bearer(), "X-Tenant-Id": "tnt_a"}))
    assert auth.tenant_id == "tnt_a"


async def test_a_header_sent_twice_is_refused() -> None:
    with pytest.raises(InvalidRequestError):
        await identity().identify([*raw(bearer()), *raw(bearer())])


@pytest.mark.parametrize(
    ("more", "scopes", "kind"),
    [
        ({}, USER_SCOPES, "user"),
        ({"X-Scopes": "runs:read, agents:write"}, {"runs:read", "agents:write"}, "user"),
        ({"X-Scopes": "runs:write"}, {"runs:create", "runs:cancel"}, "user"),
        ({"X-Scopes": ""}, set(), "user"),
        ({"X-Subject-Type": "robot"}, USER_SCOPES, "service"),
    ],
)
async def test_dev_headers(more: dict[str, str], scopes: set[str], kind: str) -> None:
    auth = await identity().identify(raw({**DEV, **more}))
    assert (auth.tenant_id, auth.principal.principal_id) == ("tnt_dev", "usr_dev")
    assert auth.scopes == scopes
    assert auth.principal.principal_type == kind


async def test_dev_headers_identify_nobody_where_they_are_not_allowed() -> None:
    with pytest.raises(UnauthorizedError):
        await identity(allow_dev_headers=False).identify(raw(DEV))


async def test_a_remembered_token_is_forgotten_when_it_expires() -> None:
    now = time.time()
    local = identity(now=lambda: now)
    headers = raw(bearer(exp=time.time() - 50))
    first = await local.identify(headers)
    assert await local.identify(headers) is first
    now += 11
    assert await local.identify(headers) is not first, "verified again, as PyJWT's clock allows"


async def test_the_memory_of_tokens_is_bounded() -> None:
    local = identity()
    local._verified = dict.fromkeys(map(str, range(MAX_CACHED)))  # type: ignore[assignment]
    await local.identify(raw(bearer()))
    assert len(local._verified) == MAX_CACHED
    assert "0" not in local._verified


async def test_the_order_is_credential_tenant_scope_object(door: Door) -> None:
    path = "/v1/runs/not-an-id?limit=x"
    status, body, _ = await door.call("GET", path, headers={})
    assert (status, body["error"]["code"]) == (401, "unauthorized")
    wrong = {**bearer(scope="usage:read"), "X-Tenant-Id": "tnt_b"}
    status, body, _ = await door.call("GET", path, headers=wrong)
    assert (status, body["error"]["code"]) == (400, "tenant_mismatch")
    status, body, _ = await door.call("GET", path, headers=bearer(scope="usage:read"))
    assert (status, body["error"]["details"]) == (403, {"required_scope": "runs:read"})
    status, body, _ = await door.call("GET", path)
    assert (status, body["error"]["code"]) == (400, "invalid_request")
