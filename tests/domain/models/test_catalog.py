"""The catalog document: what is in it, what is out of the box, and what may not stand in it."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentos.domain.models.catalog import Catalog, Price
from agentos.domain.models.catalog_rules import CatalogError, parse_catalog, place, problems
from agentos.domain.models.defaults import DEFAULT_CATALOG, completed, with_openai

SERVER = {"name": "up", "kind": "openai", "base_url": "http://models.example/v1"}
LARGE = {
    "model_id": "up/large",
    "capabilities": ["chat"],
    "price": {"input_per_million": 2.5, "output_per_million": 10},
}


def document(**more: Any) -> dict[str, Any]:
    return {"backends": [SERVER], "models": [LARGE], "routes": []} | more


def route(*steps: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {"name": "quick", "chain": [{"targets": targets} for targets in steps]} | more


def found(raw: Any) -> dict[str, str]:
    """Return what is wrong with a document, by its place."""
    with pytest.raises(CatalogError) as caught:
        parse_catalog(raw)
    return {place(loc): text for loc, text in caught.value.problems}


def test_the_box_holds_and_has_every_tier_for_both_operations() -> None:
    assert list(problems(DEFAULT_CATALOG)) == []
    assert parse_catalog({}) == DEFAULT_CATALOG
    names = {(r.name, r.operation) for r in DEFAULT_CATALOG.routes}
    assert names == {
        (f"tier:{t}", o) for t in ("fast", "balanced", "premium") for o in ("chat", "embed")
    }


def test_what_is_left_out_is_as_out_of_the_box_and_what_is_said_holds() -> None:
    own = route([{"model_id": "up/large"}], name="tier:fast")
    catalog = parse_catalog(document(routes=[own]))
    fast = [r for r in catalog.routes if r.name == "tier:fast"]
    assert [r.chain[0].targets[0].model_id for r in fast] == ["up/large", "builtin/embed"]
    assert {b.name for b in catalog.backends} == {"up", "builtin"}
    assert completed(catalog) == catalog


def test_it_is_written_and_read_as_it_was() -> None:
    catalog = parse_catalog(document(routes=[route([{"model_id": "up/large"}])]))
    assert Catalog.model_validate_json(catalog.model_dump_json()) == catalog


def test_a_server_of_the_settings_is_added_once() -> None:
    free = with_openai(DEFAULT_CATALOG, "http://models.example/v1", ())
    (backend,) = (b for b in free.backends if b.name == "openai")
    assert backend.any_model
    assert list(problems(free)) == []
    listed = with_openai(DEFAULT_CATALOG, "http://models.example/v1", ("a", "org/b"), "/key")
    assert [m.model_id for m in listed.models if m.backend == "openai"] == [
        "openai/a",
        "openai/org/b",
    ]
    assert with_openai(listed, "http://other.example", ()) == listed
    assert with_openai(DEFAULT_CATALOG, "", ("a",)) is DEFAULT_CATALOG


TARGET = {"model_id": "up/large"}
OTHER = {"model_id": "builtin/echo"}
WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"rouets": []}, "rouets", "no field"),
    ({"backends": [SERVER | {"api_key": "x"}]}, "backends[0].api_key", "no field"),
    ({"backends": [SERVER | {"name": "Up"}]}, "backends[0].name", "pattern"),
    ({"backends": [SERVER, SERVER], "models": []}, "backends[1].name", "twice"),
    ({"backends": [SERVER | {"base_url": None}]}, "backends[0].base_url", "needed"),
    ({"backends": [SERVER | {"base_url": "ftp://a"}]}, "backends[0].base_url", "http"),
    ({"backends": [SERVER | {"base_url": "http://a:b@c"}]}, "backends[0].base_url", "credential"),
    ({"backends": [SERVER | {"base_url": "http://c/?k=1"}]}, "backends[0].base_url", "query"),
    ({"backends": [SERVER | {"base_url": "http://c:x/"}]}, "backends[0].base_url", "no URL"),
    (
        {"backends": [SERVER | {"headers": {"X-Api-Key": "a"}}]},
        "backends[0].headers.X-Api-Key",
        "secret",
    ),
    ({"backends": [SERVER | {"headers": {"a b": "a"}}]}, "backends[0].headers.a b", "name"),
    ({"backends": [SERVER | {"headers": {"a": "a\r\nb"}}]}, "backends[0].headers.a", "value"),
    ({"backends": [{"name": "aws", "kind": "aws-bedrock"}]}, "backends[0].region", "needed"),
    ({"backends": [{"name": "mine", "kind": "builtin"}]}, "backends[0].name", "belong together"),
    (
        {"backends": [{"name": "here", "kind": "local", "region": "eu"}]},
        "backends[0].region",
        "means nothing",
    ),
    ({"models": [LARGE, LARGE]}, "models[1].model_id", "twice"),
    ({"models": [{"model_id": "down/a"}]}, "models[0].model_id", "no backend"),
    ({"models": [{"model_id": "large"}]}, "models[0].model_id", "pattern"),
    ({"models": [{"model_id": "builtin/oracle"}]}, "models[0].model_id", "builtin models are"),
    (
        {"models": [{"model_id": "builtin/echo", "capabilities": ["embed"]}]},
        "models[0].capabilities",
        "can chat",
    ),
    (
        {
            "backends": [{"name": "up", "kind": "anthropic"}],
            "models": [LARGE | {"capabilities": ["embed"]}],
        },
        "models[0].capabilities",
        "no embed",
    ),
    (
        {"models": [LARGE | {"price": {"input_per_million": -1, "output_per_million": 1}}]},
        "models[0].price.input_per_million",
        "greater",
    ),
    ({"routes": [route([TARGET]), route([TARGET])]}, "routes[1].name", "twice"),
    ({"routes": [route([TARGET], name="tier:slow")]}, "routes[0].name", "pattern"),
    ({"routes": [route()]}, "routes[0].chain", "at least 1"),
    ({"routes": [route([])]}, "routes[0].chain[0].targets", "at least 1"),
    (
        {"routes": [route([TARGET | {"weight": 0}])]},
        "routes[0].chain[0].targets[0].weight",
        "greater",
    ),
    (
        {"routes": [route([{"model_id": "up/none"}])]},
        "routes[0].chain[0].targets[0].model_id",
        "no model",
    ),
    (
        {"routes": [route([TARGET], operation="embed")]},
        "routes[0].chain[0].targets[0].model_id",
        "cannot embed",
    ),
    (
        {"routes": [route([TARGET, TARGET])]},
        "routes[0].chain[0].targets[1].model_id",
        "twice in this step",
    ),
    (
        {"routes": [route([TARGET], [OTHER], [TARGET])]},
        "routes[0].chain[2].targets[0].model_id",
        "never taken",
    ),
    (
        {"routes": [route([TARGET | {"canary": {"percent": 0}}, OTHER])]},
        "routes[0].chain[0].targets[0].canary.percent",
        "greater",
    ),
    (
        {
            "routes": [
                route(
                    [TARGET | {"canary": {"percent": 100}}, OTHER | {"canary": {"percent": 1}}],
                    [OTHER],
                )
            ]
        },
        "routes[0].chain[0].targets[1].canary.percent",
        "leave less",
    ),
    (
        {"routes": [route([TARGET | {"canary": {"percent": 50}}])]},
        "routes[0].chain[0]",
        "ends in a canary",
    ),
    (
        {"routes": [route([TARGET | {"max_cost_usd": 0.000001}])]},
        "routes[0].chain[0].targets[0].max_cost_usd",
        "never met",
    ),
    (
        {
            "backends": [SERVER | {"any_model": True}],
            "routes": [route([{"model_id": "up/new", "max_cost_usd": 1}])],
        },
        "routes[0].chain[0].targets[0].max_cost_usd",
        "no price",
    ),
    (
        {"routes": [route([TARGET], shadow=[{"model_id": "up/none", "percent": 1}])]},
        "routes[0].shadow[0].model_id",
        "no model",
    ),
]


@pytest.mark.parametrize(("more", "where", "what"), WRONG, ids=[w[1] + ":" + w[2] for w in WRONG])
def test_what_does_not_hold_is_named_with_its_place(
    more: dict[str, Any], where: str, what: str
) -> None:
    wrong = found(document(**more))
    assert what in wrong[where]


@pytest.mark.parametrize("raw", [None, 1, [], "{}", {"models": {}}])
def test_what_is_no_document_is_an_error(raw: Any) -> None:
    assert found(raw)


def test_every_problem_is_named_at_once() -> None:
    raw = document(models=[LARGE, {"model_id": "down/a"}], routes=[route([{"model_id": "x/y"}])])
    assert len(found(raw)) == 2


def test_a_target_may_come_back_behind_a_condition() -> None:
    canary = TARGET | {"canary": {"percent": 10, "by": "agent"}}
    limited = TARGET | {"max_latency_ms": 10}
    for first in (canary, limited):
        parse_catalog(document(routes=[route([first, OTHER], [TARGET])]))
    parse_catalog(document(routes=[route([TARGET | {"canary": {"percent": 100}}])]))


def test_a_server_that_takes_any_model_needs_no_entry() -> None:
    raw = document(
        backends=[SERVER | {"any_model": True}], routes=[route([{"model_id": "up/org/new:1"}])]
    )
    assert parse_catalog(raw).routes[0].chain[0].targets[0].model_id == "up/org/new:1"


def test_a_price_is_exact_and_rounded_up_once() -> None:
    price = Price(input_per_million=0.15, output_per_million=0.6)
    assert price.micro_usd(1_000_000, 1_000_000) == 750_000
    assert price.micro_usd(1, 0) == 1
    assert price.micro_usd(1, 1) == 1
    assert price.micro_usd(0, 0) == 0


@given(
    st.floats(0, 1000, allow_nan=False),
    st.floats(0, 1000, allow_nan=False),
    st.integers(0, 10**7),
    st.integers(0, 10**7),
    st.integers(0, 10**5),
)
def test_a_price_never_falls_with_more_tokens(
    cost_in: float, cost_out: float, tokens_in: int, tokens_out: int, more: int
) -> None:
    price = Price(input_per_million=cost_in, output_per_million=cost_out)
    least = price.micro_usd(tokens_in, tokens_out)
    assert 0 <= least <= price.micro_usd(tokens_in + more, tokens_out)
    assert least <= price.micro_usd(tokens_in, tokens_out + more)
    assert least + 1 >= tokens_in * cost_in + tokens_out * cost_out - 20
