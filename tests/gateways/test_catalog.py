"""The catalog over HTTP: published and read by the platform, listed for each tenant."""

from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest

from agentos.domain.models.defaults import DEFAULT_CATALOG
from agentos.domain.models.entitled import entitled
from agentos.domain.tenant.tenant import Profile
from agentos.gateways.model_policy.listing import usable
from tests.gateways.conftest import Door, bearer, token
from tests.gateways.test_admin import HandledNode

PATH = "/v1/admin/models"
PLATFORM = bearer(roles=["platform_admin"], tenant_id="tnt_a", sub="usr_platform_admin")
TIERS = ["tier:fast", "tier:balanced", "tier:premium"]
BUILTIN = ["builtin/echo", "builtin/scripted", "builtin/sleep", "builtin/embed"]
DOCUMENT: dict[str, Any] = {
    "backends": [{"name": "up", "kind": "openai", "base_url": "http://m.example/v1"}],
    "models": [
        {
            "model_id": "up/org/large",
            "tier": "premium",
            "context_window_tokens": 1000,
            "price": {"input_per_million": 2.5, "output_per_million": 10},
        }
    ],
    "routes": [{"name": "quick", "chain": [{"targets": [{"model_id": "up/org/large"}]}]}],
}


@pytest.fixture
async def node() -> AsyncIterator[Door]:
    """A door with handlers behind it, and the tenant `tnt_a`."""
    door = Door(tenants=("tnt_a",))
    await door.start()
    handled = HandledNode(door)
    await handled.answer()
    yield door
    await handled.close()
    await door.close()


async def put(door: Door, body: Any, headers: dict[str, str] = PLATFORM) -> tuple[int, Any]:
    status, answer, _ = await door.call("PUT", PATH, headers=headers, json=body)
    return status, answer


async def get(door: Door, path: str = PATH) -> tuple[int, Any]:
    status, answer, _ = await door.call("GET", path, headers=PLATFORM)
    return status, answer


async def test_a_catalog_is_read_published_and_read_again(node: Door) -> None:
    status, answer = await get(node)
    assert (status, answer["catalog"]["version"]) == (200, 0)
    status, answer = await put(node, {"document": DOCUMENT, "expected_version": 0})
    assert (status, answer["catalog"]["version"], answer["catalog"]["source"]) == (200, 1, "api")
    assert (await get(node))[1]["catalog"] == answer["catalog"]
    status, refused = await put(node, {"document": DOCUMENT, "expected_version": 0})
    assert (status, refused["error"]["code"]) == (409, "conflict")
    status, back = await put(node, {"document": answer["catalog"]["document"]})
    assert (status, back["catalog"]["version"]) == (200, 1)
    assert (await put(node, {"document": {}}))[1]["catalog"]["version"] == 2
    status, old = await get(node, f"{PATH}?version=1")
    assert (status, old["catalog"]) == (200, answer["catalog"])
    assert (await get(node, f"{PATH}?version=3"))[0] == 404
    status, answer = await get(node, f"{PATH}/versions")
    assert [(v["version"], v["principal_id"]) for v in answer["versions"]] == [
        (2, "usr_platform_admin"),
        (1, "usr_platform_admin"),
    ]


@pytest.mark.parametrize(
    ("body", "loc"),
    [
        ({"document": {"routse": []}}, ["body", "document", "routse"]),
        ({"document": []}, ["body", "document"]),
        ({}, ["body", "document"]),
        ({"document": {}, "expected_version": -1}, ["body", "expected_version"]),
        ({"document": {"backends": [{"name": "x"}]}}, ["body", "document", "backends", 0, "kind"]),
    ],
)
async def test_what_does_not_fit_is_named(node: Door, body: Any, loc: list[Any]) -> None:
    status, answer = await put(node, body)
    assert (status, answer["error"]["code"]) == (400, "invalid_request")
    assert loc in [error["loc"] for error in answer["error"]["details"]["errors"]]


async def test_a_tenants_admin_does_not_publish(node: Door) -> None:
    for headers in (bearer(roles=["tenant_admin"]), bearer()):
        status, answer = await put(node, {"document": {}}, headers)
        assert (status, answer["error"]["code"]) == (403, "forbidden")
    narrow = {"document": {}, "auth": {"scopes": ["runs:read"]}}
    assert (await put(node, narrow))[0] == 403


async def listed(door: Door) -> dict[str, Any]:
    async with door.client.get(f"{door.urls[1]}/v1/models", headers=bearer()) as response:
        assert response.status == 200
        found: dict[str, Any] = await response.json()
        return found


async def test_a_tenant_lists_what_it_may_use_at_once_after_a_change(node: Door) -> None:
    answer = await listed(node)
    assert [model["model_id"] for model in answer["models"]] == BUILTIN + TIERS
    assert [model["id"] for model in answer["data"]] == BUILTIN + TIERS
    await put(node, {"document": DOCUMENT})
    answer = await listed(node)
    large = next(model for model in answer["models"] if model["model_id"] == "up/org/large")
    assert large == {
        "model_id": "up/org/large",
        "provider": "openai",
        "capabilities": ["chat"],
        "tier": "premium",
        "context_window_tokens": 1000,
        "price": {"input_per_million": 2.5, "output_per_million": 10.0},
    }
    assert {"model_id": "quick", "provider": "agentos", "capabilities": ["chat"]} in answer[
        "models"
    ]
    assert answer["object"] == "list"
    assert {model["object"] for model in answer["data"]} == {"model"}


async def test_openais_client_lists_and_retrieves(node: Door) -> None:
    await put(node, {"document": DOCUMENT})
    async with openai.AsyncOpenAI(
        base_url=f"{node.urls[1]}/v1", api_key=token(), max_retries=0
    ) as client:
        ids = [model.id async for model in await client.models.list()]
        assert "up/org/large" in ids
        for model_id in ("up/org/large", "quick", "tier:fast"):
            model = await client.models.retrieve(model_id)
            assert (model.id, model.object) == (model_id, "model")
            assert model.created > 0
        with pytest.raises(openai.NotFoundError):
            await client.models.retrieve("up/none")


def rights(**entitlements: Any) -> list[str]:
    profile = Profile.model_validate({"name": "A", "entitlements": entitlements})
    return [one["model_id"] for one in usable(DEFAULT_CATALOG, entitled(profile))]


def test_what_a_tenant_may_not_use_is_not_listed() -> None:
    assert rights(model_tiers_allowed=["fast"]) == [*BUILTIN, "tier:fast"]
    assert rights(models_denied=["builtin/echo"]) == [*BUILTIN[1:], *TIERS]
    assert rights(models_denied=["builtin/*"]) == []
    assert rights(models_allowed=["echo", "tier:fast"]) == [BUILTIN[0], *TIERS]
    assert rights(model_backends_allowed=["up"]) == []
