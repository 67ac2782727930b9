"""Policies over HTTP: administered at one door, gone by at the other."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from agentos.domain.policy.builtin import default_document
from agentos.domain.tenant.tenant import Profile
from tests.gateways.conftest import Door, bearer
from tests.gateways.test_admin import HandledNode

ADMIN = bearer(roles=["tenant_admin"], sub="usr_admin")
OTHER = bearer(roles=["tenant_admin"], tenant_id="tnt_b")
PLATFORM = bearer(roles=["platform_admin"], tenant_id="tnt_b", sub="usr_platform")
TEXT = "Mail john.doe@example.com, card 4111 1111 1111 1111."
BLOCKS_CARDS = {
    "name": "Cards",
    "rules": [{"name": "cards", "effect": "block", "when": {"pii_types": ["credit_card"]}}],
}


class Asked:
    """Calls at both doors."""

    def __init__(self, door: Door, node: HandledNode) -> None:
        self.door = door
        self.node = node

    async def admin(
        self,
        method: str,
        path: str = "",
        body: Any = None,
        headers: Mapping[str, str] = ADMIN,
        key: str | None = None,
    ) -> tuple[int, dict[str, Any]]:
        """Ask the orchestrator's `/v1/policies`."""
        sent = {**headers, **({"Idempotency-Key": key} if key else {})}
        data = None if body is None else json.dumps(body)
        status, answer, _ = await self.door.call(
            method, f"/v1/policies{path}", headers=sent, data=data
        )
        return status, answer

    async def check(
        self,
        text: str = TEXT,
        headers: Mapping[str, str] | None = None,
        path: str = "policy:check",
        auth: Any = None,
        **more: Any,
    ) -> tuple[int, dict[str, Any]]:
        """Ask the model door for a check; returns the result, or the error."""
        checked = {"request_id": "req_1", "content": {"type": "text", "text": text}, **more}
        body = {"policy_check": checked, **({"auth": auth} if auth else {})}
        url = f"{self.door.urls[1]}/v1/{path}"
        sent = bearer() if headers is None else headers
        async with self.door.client.post(url, json=body, headers=sent) as response:
            answer = await response.json()
            assert answer["correlation_id"]
            return response.status, answer.get("policy_result") or answer["error"]

    async def until(self, said: str, **options: Any) -> dict[str, Any]:
        """Check until the answer says so: this process follows the log, a moment behind it."""
        async with asyncio.timeout(5):
            while True:
                _, found = await self.check(**options)
                if said in (found.get("decision"), found.get("code")):
                    return found

    async def publish(self, policy_id: str, document: Any, **more: Any) -> dict[str, Any]:
        """Publish and activate."""
        body = {"document": document, "activate": True, **more}
        status, answer = await self.admin("POST", f"/{policy_id}", body)
        assert status == 201, answer
        policy: dict[str, Any] = answer["policy"]
        return policy


@pytest.fixture
async def asked() -> AsyncIterator[Asked]:
    """Both doors, the handlers behind them, and two tenants."""
    door = Door(tenants=("tnt_a", "tnt_b"))
    await door.start()
    node = HandledNode(door)
    await node.answer()
    yield Asked(door, node)
    await node.close()
    await door.close()


async def test_a_check_by_the_built_in_policy(asked: Asked) -> None:
    status, result = await asked.check()
    assert status == 200
    assert result == {
        "request_id": "req_1",
        "decision": "redacted",
        "reasons": ["pol_default@1", "redact:personal_data_and_secrets"],
        "redactions": [
            {
                "type": "email",
                "start": 5,
                "end": 25,
                "replacement": "[EMAIL]",
                "field": "content.text",
            },
            {
                "type": "credit_card",
                "start": 32,
                "end": 51,
                "replacement": "[CREDIT_CARD]",
                "field": "content.text",
            },
        ],
    }
    assert await asked.check(path="policy/check") == (status, result)
    assert await asked.check(ruleset="default") == (status, result)
    assert await asked.check(ruleset="pol_default@1") == (status, result)
    plain = {"request_id": "req_1", "decision": "allowed", "reasons": ["pol_default@1"]}
    assert await asked.check("Good morning.") == (200, {**plain, "redactions": []})


async def test_an_offset_counts_code_points(asked: Asked) -> None:
    _, result = await asked.check("😀é a@example.com")
    assert (result["redactions"][0]["start"], result["redactions"][0]["end"]) == (3, 16)


async def test_a_published_version_holds_at_once_when_it_is_activated(asked: Asked) -> None:
    policy = await asked.publish("pol_default", BLOCKS_CARDS)
    assert policy["active_version"] == 2

    result = await asked.until("blocked")
    assert result["reasons"] == ["pol_default@2", "block:cards"]
    assert result["redactions"] == []
    assert (await asked.check(headers=bearer(tenant_id="tnt_b")))[1]["decision"] == "redacted"
    status, answer = await asked.admin("POST", "/pol_default:activate", {"version": 1})
    assert (status, answer["policy"]["active_version"]) == (200, 1)
    assert (await asked.check(ruleset="pol_default@2"))[1]["decision"] == "blocked"


async def test_a_named_policy_and_version(asked: Asked) -> None:
    await asked.publish("pol_cards", BLOCKS_CARDS)
    assert (await asked.check(ruleset="pol_cards"))[1]["reasons"][0] == "pol_cards@1"
    assert (await asked.check(ruleset="pol_cards@1"))[1]["decision"] == "blocked"
    for unknown in ("pol_never", "pol_cards@2", "pol_cards@x", "something", "pol_default@0"):
        status, error = await asked.check(ruleset=unknown)
        assert (status, error["code"]) == (404, "not_found"), unknown
    other = bearer(tenant_id="tnt_b")
    assert (await asked.check(ruleset="pol_cards", headers=other))[0] == 404


async def test_an_approval_is_a_block_with_its_reason(asked: Asked) -> None:
    rule = {"name": "boss", "effect": "require_approval", "when": {"direction": ["tool_input"]}}
    await asked.publish("pol_boss", {"name": "Boss", "rules": [rule]})
    _, result = await asked.check(ruleset="pol_boss", direction="tool_input")
    assert (result["decision"], result["reasons"]) == (
        "blocked",
        ["pol_boss@1", "approval_required:boss"],
    )
    assert (await asked.check(ruleset="pol_boss"))[1]["decision"] == "allowed"


async def test_conditions_on_what_the_body_says(asked: Asked) -> None:
    when = {"region": ["us"], "model": ["openai/*"], "labels": {"team": ["x"]}}
    rule = {"name": "us", "effect": "block", "when": when}
    await asked.publish("pol_us", {"name": "US", "rules": [rule]})
    more: dict[str, Any] = {"model": "openai/gpt", "labels": {"team": "x"}, "ruleset": "pol_us"}
    auth = {"policy_context": {"region": "us"}}
    assert (await asked.check(auth=auth, **more))[1]["decision"] == "blocked"
    assert (await asked.check(**more))[1]["decision"] == "allowed"
    assert (await asked.check(auth=auth, ruleset="pol_us"))[1]["decision"] == "allowed"


async def test_a_policy_that_is_not_there_lets_nothing_pass(asked: Asked) -> None:
    profile = Profile(name="B", default_policy_id="pol_gone")
    await asked.door.change_tenant("tnt_b", "update", profile)
    headers = bearer(tenant_id="tnt_b")

    error = await asked.until("policy_blocked", headers=headers)
    assert "pol_gone" in error["message"]
    assert error["details"]["reasons"] == ["policy_missing:pol_gone"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 400),
        ({"policy_check": {"request_id": "r", "content": {"type": "image", "text": ""}}}, 400),
        ({"policy_check": {"request_id": "", "content": {"type": "text", "text": ""}}}, 400),
        ({"policy_check": {"request_id": "r", "content": {"type": "text"}}}, 400),
        ({"policy_check": {"request_id": "r", "content": {"text": "x", "new": 1}}}, 200),
        ({"policy_check": {"request_id": "r", "content": {"text": ""}}, "other": 1}, 200),
        (
            {
                "auth": {"scopes": ["models:list"]},
                "policy_check": {"request_id": "r", "content": {"text": ""}},
            },
            403,
        ),
        (
            {
                "auth": {"tenant_id": "tnt_b"},
                "policy_check": {"request_id": "r", "content": {"text": ""}},
            },
            400,
        ),
    ],
)
async def test_bodies_of_a_check(asked: Asked, body: Any, status: int) -> None:
    url = f"{asked.door.urls[1]}/v1/policy:check"
    async with asked.door.client.post(url, json=body, headers=bearer()) as response:
        assert response.status == status


async def test_the_list_shows_the_built_in_policy_and_pages(asked: Asked) -> None:
    status, answer = await asked.admin("GET")
    assert status == 200
    assert [p["policy_id"] for p in answer["policies"]] == ["pol_default"]
    assert answer["default_policy_id"] == "pol_default"
    assert answer["policies"][0]["active_version"] == 1
    for name in ("pol_a", "pol_b", "pol_z"):
        await asked.publish(name, BLOCKS_CARDS)
    _, page = await asked.admin("GET", "?limit=3")
    assert [p["policy_id"] for p in page["policies"]] == ["pol_a", "pol_b", "pol_default"]
    _, rest = await asked.admin("GET", f"?limit=3&cursor={page['next_cursor']}")
    assert [p["policy_id"] for p in rest["policies"]] == ["pol_z"]
    assert "next_cursor" not in rest
    assert "versions" not in rest["policies"][0]
    assert (await asked.admin("GET", "?cursor=x"))[0] == 400


async def test_one_policy_with_its_versions(asked: Asked) -> None:
    _, answer = await asked.admin("GET", "/pol_default")
    (version,) = answer["policy"]["versions"]
    assert version == {
        "version": 1,
        "document": default_document().model_dump(mode="json"),
    }
    await asked.publish("pol_a", BLOCKS_CARDS)
    await asked.admin("POST", "/pol_a", {"document": BLOCKS_CARDS})
    _, answer = await asked.admin("GET", "/pol_a")
    assert answer["policy"]["active_version"] == 1
    assert [v["version"] for v in answer["policy"]["versions"]] == [2, 1]
    assert answer["policy"]["versions"][0]["published_by"] == "usr_admin"


async def test_whose_policies_they_are(asked: Asked) -> None:
    await asked.publish("pol_a", BLOCKS_CARDS)
    assert (await asked.admin("GET", "/pol_a", headers=OTHER))[0] == 404
    assert (await asked.admin("GET", "/pol_a?tenant_id=tnt_a", headers=OTHER))[0] == 404
    assert (await asked.admin("GET", "/pol_a?tenant_id=tnt_a", headers=PLATFORM))[0] == 200
    assert (await asked.admin("GET", "?tenant_id=tnt_never", headers=PLATFORM))[0] == 404
    assert (await asked.admin("GET", "?tenant_id=../x", headers=PLATFORM))[0] == 400
    body = {"version": 1}
    path = "/pol_a:activate?tenant_id=tnt_a"
    assert (await asked.admin("POST", path, body, headers=OTHER))[0] == 404
    assert (await asked.admin("POST", path, body, headers=PLATFORM))[0] == 200
    assert (await asked.admin("GET", "/pol_a", headers=bearer()))[0] == 403


async def test_a_repeat_with_the_same_key_publishes_once(asked: Asked) -> None:
    body = {"document": BLOCKS_CARDS}
    first = await asked.admin("POST", "/pol_a", body, key="k1")
    again = await asked.admin("POST", "/pol_a", body, key="k1")
    assert again[1]["policy"] == first[1]["policy"]
    other = {"document": {"name": "X", "rules": []}}
    status, answer = await asked.admin("POST", "/pol_a", other, key="k1")
    assert (status, answer["error"]["code"]) == (409, "conflict")


RULE: dict[str, Any] = {"name": "r", "effect": "block"}
BAD = [
    {},
    {"document": {"name": "X"}},
    {"document": {"name": "X", "rules": [], "extra": 1}},
    {"document": {"name": "X", "rules": [{**RULE, "wen": {}}]}},
    {"document": {"name": "X", "rules": [{**RULE, "when": {"pii_type": ["email"]}}]}},
    {"document": {"name": "X", "rules": [{**RULE, "effect": "deny"}]}},
    {"document": {"name": "X", "rules": [{**RULE, "effect": "redact"}]}},
    {"document": {"name": "X", "rules": [RULE, RULE]}},
    {"document": {"name": "X", "rules": [{**RULE, "unless": {}}]}},
    {"document": {"name": "X", "rules": [{**RULE, "when": {"model": ["a*b*"]}}]}},
    {"document": {"name": "X", "rules": [{**RULE, "when": {"pii_types": ["person"]}}]}},
    {"document": {"name": "X", "rules": [{**RULE, "when": {"pii_types": []}}]}},
]


@pytest.mark.parametrize("body", BAD, ids=range(len(BAD)))
async def test_documents_that_do_not_fit(asked: Asked, body: Any) -> None:
    status, answer = await asked.admin("POST", "/pol_a", body)
    assert (status, answer["error"]["code"]) == (400, "invalid_request")
    assert answer["error"]["details"]["errors"][0]["msg"]
    assert (await asked.admin("GET", "/pol_a"))[0] == 404


@pytest.mark.parametrize("policy_id", ["agt_a", "pol_", "pol_a.b", "POL_a", "pol_" + "x" * 101])
async def test_ids_that_are_no_policys(asked: Asked, policy_id: str) -> None:
    assert (await asked.admin("GET", f"/{policy_id}"))[0] == 400
    assert (await asked.admin("POST", f"/{policy_id}", {"document": BLOCKS_CARDS}))[0] == 400
