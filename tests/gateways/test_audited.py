"""Every route is in the audit's table, and every refusal, look and check in the audit."""

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Scope

from agentos.domain.audit.causes import AUDITED
from agentos.domain.auth import PLATFORM_SCOPES, AuthContext, Principal
from agentos.domain.errors import (
    AgentOSError,
    DependencyUnavailableError,
    ForbiddenError,
    PolicyBlockedError,
    QuotaExceededError,
    RateLimitedError,
)
from agentos.domain.models.catalog import BackendEntry
from agentos.domain.tenant.access import HiddenError
from agentos.gateways.http.audited import (
    COUNTED,
    EVENT,
    LOOK,
    NODE_LOOK,
    OPEN_TO_ALL,
    ROUTES,
    audited,
)
from agentos.gateways.http.authorization import OPEN, SCOPES
from agentos.gateways.http.denials import Denial, Denials
from agentos.gateways.http.metrics import Metrics
from agentos.gateways.http.middleware import Doorway
from agentos.gateways.http.routing import Gate, guarded_app
from agentos.gateways.http.tenants import Tenants
from agentos.handlers.audit import record_denials
from agentos.infra.clock import SystemIds
from agentos.infra.memory.bus import MemoryBus
from tests.gateways.conftest import Door, EveryTenant, accepted, bearer
from tests.gateways.test_admin import OWN, PLATFORM, HandledNode
from tests.handlers.auditor.audited import records_of

GUARDED = [place for place, scope in SCOPES.items() if scope != OPEN]
CHANGING = ("POST", "PUT", "PATCH", "DELETE")
IDS = {"tenant_id": "tnt_x", "agent_id": "agt_a", "run_id": "run_1", "request_id": "req_1",
       "key_id": "key_1", "stack_id": "stk_b", "policy_id": "pol_a",
       "model_id": "mod_a"}  # fmt: skip


def test_every_route_has_a_line_and_every_line_a_route() -> None:
    assert set(ROUTES) == set(SCOPES)
    with pytest.raises(KeyError, match="stands in no line"):
        audited("GET", "/v1/new")


def test_what_changes_something_is_recorded() -> None:
    actions = {rule.action for rule in AUDITED.values()}
    for (method, route), about in ROUTES.items():
        if method in CHANGING:
            assert about.how in (EVENT, COUNTED), (method, route)
        if about.how == EVENT:
            assert about.action in actions, (method, route)
        assert (about.how == OPEN_TO_ALL) == (SCOPES[method, route] == OPEN), (method, route)


def test_what_only_the_platform_reads_is_a_look() -> None:
    for (method, route), scope in SCOPES.items():
        if method == "GET" and scope in ("platform:admin", "tenants:admin"):
            assert ROUTES[method, route].how in (LOOK, NODE_LOOK), (method, route)


@dataclass
class Refusing:
    """A door with every route of all doors, whose endpoints answer what they are told."""

    error: AgentOSError
    bus: MemoryBus = field(default_factory=lambda: MemoryBus({"audit.query": accepted}))

    def __post_init__(self) -> None:
        self.denials = Denials(self.bus)
        tenants = cast("Tenants", type("Every", (), {"active": EveryTenant()})())
        self.app = guarded_app("t", Gate(cast("Any", self), tenants, Metrics(), self.denials))
        for method, path in sorted(GUARDED, key=lambda place: -len(place[1])):
            self.app.router.add_api_route(
                path.replace("{model_id}", "{model_id:path}"), self.refuse, methods=[method]
            )

    async def identify(self, headers: Any, source: str = "") -> AuthContext:
        """Everybody is a platform admin, who may all."""
        return AuthContext(
            tenant_id="tnt_a",
            principal=Principal(principal_id="usr_a"),
            roles=("platform_admin",),
            scopes=PLATFORM_SCOPES,
        )

    async def refuse(self, request: Request) -> ASGIApp:
        """Refuse what was asked."""
        raise self.error

    async def ask(self, method: str, path: str) -> None:
        """Make a request."""
        for name, value in IDS.items():
            path = path.replace(f"{{{name}}}", value)
        scope: Scope = {
            "type": "http", "method": method, "path": path, "headers": [], "query_string": b"",
            "client": ("192.0.2.1", 1), "root_path": "",
        }  # fmt: skip

        async def receive() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Message) -> None:
            return None

        door = Doorway(
            self.app, service="t", new_id=SystemIds(), metrics=Metrics(), max_body_bytes=1000
        )
        await door(scope, receive, send)

    @property
    def noted(self) -> list[Denial]:
        """What was noted."""
        return list(self.denials._counts)


REFUSALS = [
    QuotaExceededError("no"),
    RateLimitedError("no"),
    ForbiddenError("no"),
    PolicyBlockedError("no"),
]


@pytest.mark.parametrize("error", REFUSALS, ids=lambda error: error.code)
async def test_every_routes_refusal_is_noted_as_its_action(error: AgentOSError) -> None:
    door = Refusing(error)
    for method, path in GUARDED:
        door.denials._counts.clear()
        await door.ask(method, path)
        (noted,) = door.noted
        assert (noted.action, noted.outcome, noted.reason, noted.tenant_id) == (
            ROUTES[method, path].action, "denied", error.code, "tnt_a"
        ), (method, path)  # fmt: skip
        assert (
            dict(noted.meta)["route"] == f"{method} {path.replace('{model_id}', '{model_id:path}')}"
        )
        last = path.rstrip("}").rpartition("{")[2] if path.endswith("}") else ""
        assert noted.resource == IDS.get(last, noted.resource)


async def test_what_has_a_record_already_and_what_is_no_refusal_is_not_noted() -> None:
    recorded = QuotaExceededError("no")
    recorded.is_recorded = True
    for error in (recorded, DependencyUnavailableError("away", dependency="nats")):
        door = Refusing(error)
        await door.ask("POST", "/v1/models:invoke")
        assert door.noted == []


async def test_who_asks_for_anothers_is_noted_in_its_own_chain() -> None:
    door = Refusing(HiddenError("tnt_hidden"))
    await door.ask("GET", "/v1/admin/tenants/{tenant_id}/keys")
    (noted,) = door.noted
    assert (noted.tenant_id, noted.resource, noted.reason) == (
        "tnt_a",
        "tnt_hidden",
        "another_tenant",
    )


@pytest.fixture
async def node(door: Door) -> AsyncIterator[HandledNode]:
    """Handlers behind the door, and a tenant that is not the platform's."""
    node = HandledNode(door)
    await node.answer()
    await node.tenant("tnt_x", max_concurrent_runs=1)
    yield node
    await node.close()


async def recorded(door: Door, node: HandledNode, tenant_id: str) -> list[dict[str, Any]]:
    """Return a tenant's records once all that is noted is among them."""
    await door.gateway._denials.send()
    await record_denials(node.parts)
    return await records_of(door.log, tenant_id)


async def ask(
    door: Door, at: int, method: str, path: str, headers: Mapping[str, str], body: Any = None
) -> int:
    data = None if body is None else json.dumps(body)
    async with door.client.request(
        method, door.urls[at] + path, headers=dict(headers), data=data
    ) as answer:
        await answer.read()
        return answer.status


LOOKS = [
    ("/v1/admin/tenants/tnt_x", "tenants.read", "tnt_x"),
    ("/v1/admin/tenants/tnt_x/keys", "keys.read", "tnt_x"),
    ("/v1/admin/tenants/tnt_x/usage", "usage.read", "tnt_x"),
    ("/v1/usage?tenant_id=tnt_x&window=day", "usage.read", "tnt_x"),
    ("/v1/policies?tenant_id=tnt_x", "policies.read", "tnt_x"),
    ("/v1/policies/pol_default?tenant_id=tnt_x", "policies.read", "tnt_x"),
    ("/v1/audit?tenant_id=tnt_x&action=keys.issue", "audit.query", "tnt_x"),
    ("/v1/admin/tenants", "tenants.read", "tnt_node"),
    ("/v1/admin/models", "models.read", "tnt_node"),
    ("/v1/admin/models/versions", "models.read", "tnt_node"),
    ("/v1/audit?tenant_id=tnt_node", "audit.query", "tnt_node"),
]


@pytest.mark.parametrize(("path", "action", "chain"), LOOKS, ids=[p for p, _, _ in LOOKS])
async def test_a_platform_admins_look_is_recorded_before_it_is_shown(
    door: Door, node: HandledNode, path: str, action: str, chain: str
) -> None:
    assert await ask(door, 0, "GET", path, PLATFORM) == 200
    (record,) = await recorded(door, node, chain)
    assert (record["action"], record["outcome"], record["resource"]) == (action, "allowed", chain)
    assert record["principal"]["principal_id"] == "usr_platform_admin"
    assert record["meta"]["by_tenant"] == "tnt_root"

    async def away(*_: Any) -> dict[str, Any]:
        raise DependencyUnavailableError("away", dependency="nats")

    door.bus.handlers["audit.query"] = away
    assert await ask(door, 0, "GET", path, PLATFORM) == 503


@pytest.mark.parametrize(
    ("path", "action"),
    [(p, a) for p, a, c in LOOKS if c == "tnt_x"],
    ids=[p for p, _, c in LOOKS if c == "tnt_x"],
)
async def test_a_tenants_admin_is_refused_and_that_is_recorded_in_its_own_chain(
    door: Door, node: HandledNode, path: str, action: str
) -> None:
    assert await ask(door, 0, "GET", path, OWN) == 404
    assert await recorded(door, node, "tnt_x") == []
    (record,) = await recorded(door, node, "tnt_a")
    assert (record["action"], record["outcome"], record["resource"], record["reason"]) == (
        action, "denied", "tnt_x", "another_tenant"
    )  # fmt: skip


async def test_runs_over_the_limit_are_one_record_that_counts_them(
    door: Door, node: HandledNode
) -> None:
    headers = bearer(tenant_id="tnt_x")
    body = {"input": {"type": "text", "text": "a secret prompt"}}
    found = [await ask(door, 0, "POST", "/v1/agents/agt_a/runs", headers, body) for _ in range(6)]
    assert found == [201, 429, 429, 429, 429, 429]
    (record,) = await recorded(door, node, "tnt_x")
    assert (record["action"], record["outcome"], record["resource"], record["reason"]) == (
        "runs.create", "denied", "agt_a", "quota_exceeded"
    )  # fmt: skip
    assert record["meta"]["count"] == 5
    assert record["request_id"].startswith("req_")
    assert "secret" not in json.dumps(record)


async def test_checks_by_policy_are_counted_by_policy_and_rule(
    door: Door, node: HandledNode
) -> None:
    headers = bearer(tenant_id="tnt_x", scope="policy:check", roles=None)
    for text in ("harmless", "harmless too", "mail john.doe@example.com"):
        checked = {"request_id": "req_1", "content": {"type": "text", "text": text}}
        body = {"policy_check": checked}
        assert await ask(door, 1, "POST", "/v1/policy:check", headers, body) == 200
    records = await recorded(door, node, "tnt_x")
    assert {r["action"] for r in records} == {"policy.check"}
    assert {r["resource"].partition("@")[0] for r in records} == {"pol_default"}
    assert {r["meta"]["decision"]: r["meta"]["count"] for r in records} == {
        "allowed": 2,
        "redacted": 1,
    }
    assert all(
        r.get("reason", "").startswith("redact:")
        for r in records
        if r["meta"]["decision"] == "redacted"
    )
    assert "john" not in json.dumps(records)


async def test_a_read_of_a_providers_key_names_the_backend_and_never_the_key(
    door: Door, node: HandledNode
) -> None:
    gateway = door.gateway
    entry = BackendEntry(name="vendor", kind="openai", base_url="http://127.0.0.1:1",
                         api_key_file="vendor.key")  # fmt: skip
    gateway._make_backend(entry)
    gateway._make_backend(entry.model_copy(update={"api_key_file": None, "name": "free"}))
    records = await recorded(door, node, "tnt_node")
    (record,) = [r for r in records if r["action"] == "secrets.access"]
    assert (record["resource"], record["outcome"]) == ("vendor", "allowed")
    assert record["meta"] == {"kind": "provider_key", "from": "file", "count": 1}
    assert "vendor.key" not in json.dumps(records)
