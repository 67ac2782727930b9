"""Tenants and keys over HTTP, with the handlers behind the door."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import pytest

from agentos.domain.auth import AuthContext
from agentos.domain.errors import DependencyUnavailableError
from agentos.domain.key.key import split_secret
from agentos.handlers.parts import Parts
from agentos.handlers.routes import ROUTES, handle
from tests.gateways.conftest import Door, bearer
from tests.handlers.node import Node

TENANTS = "/v1/admin/tenants"
PLATFORM = bearer(roles=["platform_admin"], tenant_id="tnt_root", sub="usr_platform_admin")
OWN = bearer(roles=["tenant_admin"])
USER = bearer()
Send = Callable[..., Awaitable[tuple[int, dict[str, Any]]]]


class HandledNode(Node):
    """A node whose handlers answer what comes through a door."""

    def __init__(self, door: Door) -> None:
        super().__init__(door.log)
        self.door = door

    async def answer(self) -> None:
        """Let a handler process take every command of the door's bus."""
        self.parts = parts = await self.handlers()
        for name in ROUTES:
            self.door.bus.handlers[name] = self._handler(parts, name)

    @staticmethod
    def _handler(
        parts: Parts, name: str
    ) -> Callable[[AuthContext, Mapping[str, Any]], Awaitable[dict[str, Any]]]:
        async def answer(auth: AuthContext, command: Mapping[str, Any]) -> dict[str, Any]:
            message = {"auth": auth.model_dump(mode="json"), "command": json_copy(command)}
            return await handle(parts, name, message)

        return answer


def json_copy(value: Any) -> Any:
    """Return what the other side of a bus gets."""
    return json.loads(json.dumps(value))


@pytest.fixture
async def send(door: Door) -> AsyncIterator[Send]:
    """A caller: `await send(method, path, body, headers=…)` returns status and body."""
    node = HandledNode(door)
    await node.answer()

    async def call(
        method: str,
        path: str = "",
        body: Any = None,
        *,
        headers: Mapping[str, str] = PLATFORM,
        key: str | None = None,
    ) -> tuple[int, dict[str, Any]]:
        more = {"Idempotency-Key": key} if key else {}
        data = body if isinstance(body, bytes) else None if body is None else json.dumps(body)
        status, answer, _ = await door.call(
            method, f"{TENANTS}{path}", headers={**headers, **more}, data=data
        )
        return status, answer

    yield call
    await node.close()


@pytest.fixture
async def tenants(send: Send) -> Send:
    """The same, with two tenants."""
    for tenant_id in ("tnt_a", "tnt_b"):
        status, answer = await send("POST", "", {"tenant_id": tenant_id, "name": tenant_id})
        assert status == 201, answer
    return send


def error(answer: tuple[int, dict[str, Any]]) -> tuple[int, str]:
    """Return an answer's status and its error's code."""
    return answer[0], answer[1]["error"]["code"]


async def test_a_tenant_from_its_beginning_to_its_end(send: Send) -> None:
    status, answer = await send("POST", "", {"tenant_id": "tnt_a"})
    assert (status, set(answer)) == (201, {"tenant", "correlation_id"})
    tenant = answer["tenant"]
    assert (tenant["name"], tenant["status"], tenant["plan_tier"]) == (
        "tnt_a",
        "active",
        "standard",
    )
    assert {"created_at", "updated_at", "default_policy_id", "metadata"} <= set(tenant)
    wrapped = {"tenant_create": {"tenant_id": "tnt_b", "name": "B", "plan_tier": "premium"}}
    assert (await send("POST", "", wrapped))[0] == 201
    assert error(await send("POST", "", wrapped)) == (409, "conflict")
    status, answer = await send("GET", "/tnt_a")
    assert (status, answer["tenant"]) == (200, tenant)
    patch = {"quotas": {"runs": {"max_concurrent_runs": 3}}, "metadata": {"tags": ["x"]}}
    status, answer = await send("PATCH", "/tnt_a", patch)
    assert (status, answer["tenant"]["metadata"]["tags"]) == (200, ["x"])
    assert answer["tenant"]["quotas"]["runs"]["max_concurrent_runs"] == 3
    assert (await send("GET", "/tnt_a"))[1]["tenant"] == answer["tenant"]
    status, answer = await send("PUT", "/tnt_a", {"name": "A2", "tenant_id": "tnt_a"})
    assert answer["tenant"]["quotas"]["runs"]["max_concurrent_runs"] == 100
    assert (answer["tenant"]["name"], answer["tenant"]["metadata"]["tags"]) == ("A2", [])
    assert error(await send("DELETE", "/tnt_a?confirm=tnt_a")) == (
        409,
        "invalid_state_transition",
    )
    status, answer = await send("POST", "/tnt_a:disable", {"runs": "cancel"})
    assert (status, answer["tenant"]["status"]) == (200, "disabled")
    status, answer = await send("POST", "/tnt_a:enable")
    assert (status, answer["tenant"]["status"]) == (200, "active")
    assert (await send("POST", "/tnt_a:disable"))[0] == 200
    assert error(await send("DELETE", "/tnt_a")) == (409, "conflict")
    assert error(await send("DELETE", "/tnt_a?confirm=tnt_b")) == (409, "conflict")
    status, answer = await send("DELETE", "/tnt_a?confirm=tnt_a")
    assert (status, answer["tenant"]["status"]) == (200, "deleted")
    for method, path, body in (
        ("GET", "/tnt_a", None),
        ("PATCH", "/tnt_a", {}),
        ("DELETE", "/tnt_a?confirm=tnt_a", None),
        ("POST", "/tnt_a/keys", {}),
        ("GET", "/tnt_a/keys", None),
        ("GET", "/tnt_a/usage", None),
    ):
        assert error(await send(method, path, body)) == (404, "not_found"), path
    assert [t["tenant_id"] for t in (await send("GET"))[1]["tenants"]] == ["tnt_b"]


async def test_lists_come_in_pages(send: Send) -> None:
    for n in range(5):
        await send("POST", "", {"tenant_id": f"tnt_{n}"})
        await send("POST", "/tnt_0/keys")
    for path, name in (("", "tenants"), ("/tnt_0/keys", "keys")):
        found, cursor = [], ""
        while True:
            status, answer = await send("GET", f"{path}?limit=2{cursor}")
            assert status == 200
            found += [item.get("key_id") or item["tenant_id"] for item in answer[name]]
            if "next_cursor" not in answer:
                break
            cursor = f"&cursor={answer['next_cursor']}"
        assert len(found) == len(set(found)) == 5
        assert found == sorted(found)
    _, answer = await send("GET", "?limit=2")
    for bad in ("%21", "x", "eHg", answer["next_cursor"][:-2]):
        if bad != answer["next_cursor"][:-2]:
            assert error(await send("GET", f"?cursor={bad}")) == (400, "invalid_request")
    assert error(await send("GET", f"/tnt_0/keys?cursor={answer['next_cursor']}"))[0] == 400


async def test_a_key_and_its_secrets(tenants: Send) -> None:
    body = {
        "name": "ci",
        "roles": ["tenant_user"],
        "scopes": ["runs:write", "runs:read"],
        "principal_id": "svc_ci",
        "expires_at": "2999-01-01T00:00:00Z",
    }
    status, answer = await tenants("POST", "/tnt_a/keys", body, headers=OWN, key="k1")
    assert (status, set(answer)) == (201, {"key", "secret", "correlation_id"})
    key, secret = answer["key"], answer["secret"]
    assert key["scopes"] == ["runs:cancel", "runs:create", "runs:read"]
    assert key["principal"] == {"principal_id": "svc_ci", "principal_type": "service"}
    assert (key["kind"], key["expires_at"]) == ("api", "2999-01-01T00:00:00.000Z")
    assert split_secret(secret)
    assert error(await tenants("POST", "/tnt_a/keys", body, headers=OWN, key="k1")) == (
        409,
        "conflict",
    )
    status, answer = await tenants("GET", "/tnt_a/keys", headers=OWN)
    assert answer["keys"] == [key]
    assert secret not in json.dumps(answer)
    path = f"/tnt_a/keys/{key['key_id']}"
    status, answer = await tenants("POST", f"{path}:rotate", {"overlap_seconds": 5}, headers=OWN)
    assert (status, answer["secret"] != secret) == (200, True)
    assert error(await tenants("POST", f"{path}:rotate", {"overlap_seconds": -1}))[0] == 400
    status, answer = await tenants("DELETE", path, headers=OWN)
    assert (status, answer["key"]["status"]) == (200, "revoked")
    assert "secret" not in answer
    assert error(await tenants("POST", f"{path}:rotate")) == (409, "invalid_state_transition")
    assert error(await tenants("DELETE", "/tnt_a/keys/key_none")) == (404, "not_found")
    assert error(await tenants("POST", "/tnt_a/keys", {"kind": "subscriber"}))[0] == 409
    nested = {"principal": {"principal_id": "usr_x", "principal_type": "user"}}
    _, answer = await tenants("POST", "/tnt_a/keys", nested)
    assert answer["key"]["principal"]["principal_type"] == "user"


ROUTES_OF_ONE = [
    ("GET", "", None, "read"),
    ("PATCH", "", {"metadata": {"tags": ["x"]}}, "own"),
    ("PATCH", "", {"quotas": {"runs": {"max_concurrent_runs": 9}}}, "own"),
    ("PATCH", "", {"quotas": {"runs": {"max_concurrent_runs": 999}}}, "platform"),
    ("PATCH", "", {"plan_tier": "premium"}, "platform"),
    ("PUT", "", {"name": "other"}, "platform"),
    ("GET", "/usage", None, "read"),
    ("GET", "/keys", None, "read"),
    ("POST", "/keys", {"roles": ["tenant_admin"]}, "own"),
    ("POST", "/keys", {"roles": ["platform_admin"]}, "platform"),
    ("POST", "/keys/{key}:rotate", None, "own"),
    ("DELETE", "/keys/{key}", None, "own"),
    ("POST", ":enable", None, "platform"),
    ("POST", ":disable", None, "platform"),
    ("DELETE", "?confirm={tenant}", None, "platform"),
]


@pytest.mark.parametrize(("method", "path", "body", "whose"), ROUTES_OF_ONE)
async def test_who_may_what(tenants: Send, method: str, path: str, body: Any, whose: str) -> None:
    key = (await tenants("POST", "/tnt_a/keys"))[1]["key"]["key_id"]
    full = "/tnt_a" + path.format(key=key, tenant="tnt_a")
    assert error(await tenants(method, full, body, headers={})) == (401, "unauthorized")
    refused = await tenants(method, full, body, headers=USER)
    assert error(refused) == (403, "forbidden")
    assert refused[1]["error"]["details"]["required_scope"] == "tenants:admin"
    other = bearer(roles=["tenant_admin"], tenant_id="tnt_b", sub="usr_b")
    assert error(await tenants(method, full, body, headers=other)) == (404, "not_found")
    missing = "/tnt_none" + path.format(key=key, tenant="tnt_none")
    assert error(await tenants(method, missing, body, headers=OWN)) == (404, "not_found")
    assert error(await tenants(method, missing, body)) == (404, "not_found")
    own = await tenants(method, full, body, headers=OWN)
    if whose == "platform":
        assert error(own) == (403, "forbidden")
        if method == "DELETE":
            await tenants("POST", "/tnt_a:disable")
        own = await tenants(method, full, body)
    assert own[0] in (200, 201), own


async def test_a_tenants_admin_sees_one_tenant_and_makes_none(tenants: Send) -> None:
    _, answer = await tenants("GET", headers=OWN)
    assert [t["tenant_id"] for t in answer["tenants"]] == ["tnt_a"]
    for body in ({"tenant_id": "tnt_c"}, {"tenant_id": "tnt_a"}, {}):
        assert error(await tenants("POST", "", body, headers=OWN)) == (403, "forbidden")
    assert error(await tenants("GET", headers=USER)) == (403, "forbidden")
    assert error(await tenants("GET", headers={})) == (401, "unauthorized")


async def test_the_body_narrows_and_names_no_other_tenant(tenants: Send) -> None:
    narrowed = {"auth": {"scopes": ["runs:read"]}}
    assert error(await tenants("POST", "/tnt_a:disable", narrowed)) == (403, "forbidden")
    other = {"auth": {"tenant_id": "tnt_b"}}
    assert error(await tenants("POST", "/tnt_a:disable", other)) == (400, "tenant_mismatch")
    headers = {**PLATFORM, "X-Tenant-Id": "tnt_a"}
    assert error(await tenants("GET", "/tnt_a", headers=headers)) == (400, "tenant_mismatch")
    assert error(await tenants("PATCH", "/tnt_a", {"tenant_id": "tnt_b"}))[0] == 400


QUOTAS: list[Any] = [
    {"runs": {"max_concurrent_runs": -1}},
    {"runs": {"max_concurrent_runs": 10**16}},
    {"runs": {"max_concurrent_runs": 10**30}},
    {"runs": {"max_concurrent_runs": 1.5}},
    {"runs": {"run_create_qps": 0}},
    {"runs": {"run_create_qps": 1e300}},
    {"runs": {"run_create_burst": 0}},
    {"tools": {"tool_calls_per_minute": "many"}},
    {"models": {"token_budget": {"window": "year", "max_tokens": 1}}},
    {"models": {"token_budget": {"max_cost_usd": -0.01}}},
    {"models": {"max_tokens_per_request": 0}},
    {"storage": {"max_memory_bytes": -5}},
    {"runs": 7},
    [],
    "none",
]


@pytest.mark.parametrize("quotas", QUOTAS)
async def test_a_quota_that_is_none_is_told_where(tenants: Send, quotas: Any) -> None:
    for method, path, more in (
        ("POST", "", {"tenant_id": "tnt_c"}),
        ("PUT", "/tnt_a", {"name": "A"}),
        ("PATCH", "/tnt_a", {}),
    ):
        status, answer = await tenants(method, path, {**more, "quotas": quotas})
        assert (status, answer["error"]["code"]) == (400, "invalid_request"), (method, answer)
        (first, *_) = answer["error"]["details"]["errors"]
        assert first["loc"][:2] == ["body", "quotas"]
    assert error(await tenants("GET", "/tnt_c"))[0] == 404


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b"{}",
        {"tenant_id": "x"},
        {"tenant_id": "ten_x"},
        {"tenant_id": "tnt_a.b"},
        {"tenant_id": "tnt_" + "x" * 101},
        {"tenant_id": "tnt_c", "plan_tier": "gold"},
        {"tenant_id": "tnt_c", "name": 5},
        {"tenant_id": "tnt_c", "default_policy_id": "none"},
        {"tenant_id": "tnt_c", "entitlements": {"model_tiers_allowed": ["slow"]}},
        {"tenant_create": {"tenant_id": "x"}},
        {"tenant_create": 5},
        b'{"tenant_id": "tnt_c", "policy": {"x": NaN}}',
        b'{"tenant_id": "tnt_c", "policy": {"x": 99999999999999999999999}}',
        b'{"tenant_id": "tnt_c", "policy": {"x": "\\ud800"}}',
        b'{"tenant_id": "tnt_c", "name": "\\u0000"}',
    ],
)
async def test_a_body_that_is_no_tenant(send: Send, body: Any) -> None:
    status, code = error(await send("POST", "", body))
    assert status == 400
    assert code in ("invalid_request", "invalid_json")


async def test_absent_quotas_are_the_plans_and_a_repeat_is_the_first_answer(send: Send) -> None:
    body = {"tenant_id": "tnt_a", "quotas": {"runs": {"max_concurrent_runs": None}}}
    first = await send("POST", "", body, key="once")
    assert first[1]["tenant"]["quotas"]["runs"]["max_concurrent_runs"] == 100
    again = await send("POST", "", body, key="once")
    assert (again[0], again[1]["tenant"]) == (201, first[1]["tenant"])
    assert error(await send("POST", "", {**body, "name": "else"}, key="once")) == (409, "conflict")


async def test_usage(tenants: Send, door: Door) -> None:
    _, answer = await tenants("GET", "/tnt_a/usage", headers=OWN)
    (whole,) = answer["usage"]
    assert (whole["runs"], whole["runs_active"], whole["runs_limit"]) == (0, 0, 100)
    assert whole["window"] == "day"
    assert whole["from"] < whole["to"]
    door.reads.down = DependencyUnavailableError("down", dependency="postgres")
    assert error(await tenants("GET", "/tnt_a/usage")) == (503, "dependency_unavailable")
