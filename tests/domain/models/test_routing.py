"""Routing: names, entitlement, canaries, weights, requirements; the same for every process."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentos.domain.errors import (
    DependencyUnavailableError,
    ForbiddenError,
    InvalidRequestError,
)
from agentos.domain.models.catalog_rules import parse_catalog
from agentos.domain.models.plan import Plan, Skipped, Target, Who
from agentos.domain.models.routing import Needs, RoutingTable, share, worst_micro_usd
from agentos.domain.ports import Requirements

PRICE = {"input_per_million": 1.0, "output_per_million": 2.0}
MODELS: list[dict[str, Any]] = [
    {"model_id": "a/big", "price": PRICE, "context_window_tokens": 1000, "max_output_tokens": 500},
    {"model_id": "a/small", "context_window_tokens": 100},
    {"model_id": "b/big", "price": PRICE},
    {"model_id": "b/vec", "capabilities": ["embed"]},
    {"model_id": "a/one", "tier": "premium"},
]
WHO = Who("tnt_a", "usr_a")
ALL: Callable[[str, Target], bool] = lambda asked, target: True  # noqa: E731 - as short as it is


def table(*chain: list[Any], **more: Any) -> RoutingTable:
    """Return a catalog whose route `quick` has these steps; a string is a target of weight 1."""
    steps = [{"targets": [_entry(target) for target in step]} for step in chain]
    routes = [{"name": "quick", "chain": steps} | more] if chain else []
    backends = [{"name": name, "kind": "openai", "base_url": "http://m.example"} for name in "ab"]
    anything = {"name": "any", "kind": "openai", "base_url": "http://m.example", "any_model": True}
    raw = {"backends": [*backends, anything], "models": MODELS, "routes": routes}
    return RoutingTable(parse_catalog(raw), 7)


def _entry(target: Any) -> dict[str, Any]:
    return {"model_id": target} if isinstance(target, str) else target


def canary(model_id: str, percent: float, by: str = "tenant") -> dict[str, Any]:
    return {"model_id": model_id, "canary": {"percent": percent, "by": by}}


def ids(plan: Plan) -> list[str]:
    return [target.model_id for target in plan.targets]


def planned(routes: RoutingTable, ref: str = "quick", who: Who = WHO, **more: Any) -> list[str]:
    return ids(routes.plan(ref, "chat", who, more.pop("is_allowed", ALL), **more))


def asks(**requirements: Any) -> Needs:
    return Needs(Requirements(**requirements), input_tokens=100, output_tokens=100)


# names


@pytest.mark.parametrize(
    ("ref", "expected"),
    [
        ("quick", ["a/big", "b/big"]),
        ("a/small", ["a/small"]),
        ("small", ["a/small"]),
        ("any/org/model:7", ["any/org/model:7"]),
        ("tier:fast", ["builtin/echo"]),
        ("echo", ["builtin/echo"]),
    ],
)
def test_a_name_leads_to_its_models(ref: str, expected: list[str]) -> None:
    routes = table(["a/big"], ["b/big"])
    plan = routes.plan(ref, "chat", WHO, ALL)
    assert ids(plan) == expected
    assert plan.catalog_version == 7
    target = plan.targets[0]
    assert f"{target.backend}/{target.model}" == target.model_id == target.entry.model_id
    assert target.server.name == target.backend


@pytest.mark.parametrize("ref", ["none", "a/none", "c/big", "any/", "/", "", "tier:slow", "any"])
def test_a_name_that_leads_nowhere(ref: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        table(["a/big"]).plan(ref, "chat", WHO, ALL)
    assert caught.value.details["model_ref"] == ref


def test_a_bare_name_of_two_backends_is_no_answer_unless_one_is_allowed() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        planned(table(), "big")
    assert caught.value.details["candidates"] == ["a/big", "b/big"]
    assert planned(table(), "big", is_allowed=lambda _, t: t.backend == "b") == ["b/big"]


@pytest.mark.parametrize("ref", ["b/vec", "vec", "quick"])
def test_what_has_no_such_operation_is_an_error(ref: str) -> None:
    operation: Any = "embed" if ref == "quick" else "chat"
    with pytest.raises(InvalidRequestError, match=f"no {operation}"):
        table(["a/big"]).plan(ref, operation, WHO, ALL)
    assert ids(table().plan("vec", "embed", WHO, ALL)) == ["b/vec"]


# entitlement


def test_what_is_not_entitled_is_passed_over_and_said() -> None:
    routes = table(["a/big"], ["b/big"])
    plan = routes.plan("quick", "chat", WHO, lambda asked, t: t.backend == "b")
    assert ids(plan) == ["b/big"]
    assert plan.skipped == (Skipped("a/big", "not_entitled"),)


def test_nothing_entitled_is_forbidden() -> None:
    for ref in ("quick", "a/one", "one", "big"):
        with pytest.raises(ForbiddenError) as caught:
            table(["a/big"]).plan(ref, "chat", WHO, lambda *_: False)
        assert caught.value.details["model_ref"] == ref


def test_entitlement_sees_the_name_that_was_asked_for() -> None:
    seen: list[tuple[str, str]] = []

    def is_allowed(asked: str, target: Target) -> bool:
        seen.append((asked, target.model_id))
        return True

    planned(table(["a/big"]), "quick", is_allowed=is_allowed)
    planned(table(["a/big"]), "one", is_allowed=is_allowed)
    assert set(seen) == {("quick", "a/big"), ("one", "a/one")}


def test_a_shadow_gets_nothing_of_a_tenant_that_may_not_use_it() -> None:
    routes = table(["a/big"], shadow=[{"model_id": "b/big", "percent": 50}])
    (shadow,) = routes.plan("quick", "chat", WHO, ALL).shadow
    assert (shadow.target.model_id, shadow.percent) == ("b/big", 50)
    plan = routes.plan("quick", "chat", WHO, lambda _, target: target.backend == "a")
    assert (ids(plan), plan.shadow) == (["a/big"], ())


# canaries and weights


@pytest.mark.parametrize("by", ["tenant", "agent"])
def test_a_canary_gets_its_share_and_the_others_never_see_it(by: str) -> None:
    routes = table([canary("a/small", 20, by), "a/big"])
    whos = [Who(f"tnt_{n}" if by == "tenant" else "tnt_a", "u", f"agt_{n}") for n in range(2000)]
    plans = [tuple(planned(routes, who=who)) for who in whos]
    counted = Counter(plans)
    assert set(counted) == {("a/small", "a/big"), ("a/big",)}
    assert 320 < counted["a/small", "a/big"] < 480


def test_a_tenants_canary_is_the_same_for_all_its_runs() -> None:
    routes = table([canary("a/small", 50), "a/big"])
    for n in range(50):
        plans = {
            tuple(planned(routes, who=Who(f"tnt_{n}", f"u{m}", None, f"run_{m}"))) for m in "abc"
        }
        assert len(plans) == 1


@given(st.floats(0.1, 99), st.floats(0.1, 99), st.text(max_size=8))
def test_who_is_in_a_canary_stays_in_it_when_it_grows(one: float, two: float, name: str) -> None:
    small, large = sorted((one, two))
    who = Who(f"tnt_{name}", "usr")
    before, after = (
        "a/small" in planned(table([canary("a/small", p), "a/big"]), who=who)
        for p in (small, large)
    )
    assert before <= after


def test_two_canaries_share_no_caller() -> None:
    routes = table([canary("a/small", 50), canary("a/one", 50), "a/big"])
    for n in range(200):
        assert len(planned(routes, who=Who(f"tnt_{n}", "u"))) == 2


def test_weights_are_kept_and_the_others_are_the_fallback() -> None:
    routes = table([{"model_id": "a/big", "weight": 3}, {"model_id": "b/big", "weight": 1}])
    plans = [planned(routes, who=Who("tnt_a", "u", None, f"run_{n}")) for n in range(2000)]
    assert all(sorted(plan) == ["a/big", "b/big"] for plan in plans)
    assert 1400 < sum(plan[0] == "a/big" for plan in plans) < 1600


def test_a_run_stays_with_its_model() -> None:
    routes = table(["a/big", "b/big", "a/small"])
    for n in range(50):
        plans = {
            tuple(planned(routes, who=Who("tnt_a", f"u{m}", f"agt_{m}", f"run_{n}"))) for m in "abc"
        }
        assert len(plans) == 1


CHAINS = st.lists(
    st.lists(
        st.tuples(st.sampled_from(["a/big", "a/small", "b/big", "a/one"]), st.integers(1, 9)),
        min_size=1,
        max_size=4,
        unique_by=lambda pair: pair[0],
    ),
    min_size=1,
    max_size=3,
)


def _apart(chain: list[list[tuple[str, int]]]) -> list[list[dict[str, Any]]]:
    seen: set[str] = set()
    steps = []
    for step in chain:
        steps.append([{"model_id": m, "weight": w} for m, w in step if m not in seen])
        seen.update(m for m, _ in step)
    return [step for step in steps if step]


@given(CHAINS, st.text(max_size=10), st.sets(st.sampled_from(["a/big", "b/big", "a/one"])))
def test_a_plan_is_the_whole_route_in_its_order_less_what_is_not_allowed(
    chain: list[list[tuple[str, int]]], run: str, denied: set[str]
) -> None:
    steps = _apart(chain)
    who = Who("tnt_a", "usr", None, run)
    whole = planned(table(*steps), who=who)
    assert whole == planned(table(*steps), who=who)
    left = whole
    for step in steps:
        assert set(left[: len(step)]) == {target["model_id"] for target in step}
        left = left[len(step) :]
    assert left == []
    rest = [m for m in whole if m not in denied]
    if rest:
        assert (
            planned(table(*steps), who=who, is_allowed=lambda _, t: t.model_id not in denied)
            == rest
        )


@given(st.text(max_size=50))
def test_a_share_is_a_part_of_one(text: str) -> None:
    assert 0 <= share(text) < 1


def test_a_share_is_the_same_for_ever() -> None:
    assert share("agentos") == 0.33226525078750546
    assert share("tier:fast\0tnt_a") == 0.6187490025984723


# requirements


def test_requirements_take_models_out_and_say_so() -> None:
    routes = table(["a/small"], ["a/big"])
    plan = routes.plan("quick", "chat", WHO, ALL, needs=asks(min_context_tokens=500))
    assert ids(plan) == ["a/big"]
    assert plan.skipped == (Skipped("a/small", "min_context_tokens"),)
    assert planned(routes, needs=asks(min_context_tokens=100)) == ["a/small", "a/big"]
    assert planned(routes, needs=asks(max_cost_usd=0.0003)) == ["a/big"]


@pytest.mark.parametrize(
    ("requirements", "named"),
    [
        ({"min_context_tokens": 5000}, ["min_context_tokens"]),
        ({"max_cost_usd": 0.000299}, ["max_cost_usd"]),
        ({"max_latency_ms": 9}, ["max_latency_ms"]),
        (
            {"min_context_tokens": 500, "max_cost_usd": 0.0001},
            ["max_cost_usd", "min_context_tokens"],
        ),
    ],
)
def test_nothing_that_fits_names_the_requirement(
    requirements: dict[str, Any], named: list[str]
) -> None:
    routes = table(["a/small"], ["a/big"])
    with pytest.raises(InvalidRequestError) as caught:
        planned(routes, needs=asks(**requirements), latency_of=lambda _: 10)
    assert caught.value.details == {"model_ref": "quick", "requirements": named}


def test_a_latency_that_nobody_has_seen_fits() -> None:
    routes = table(["a/big"], ["b/big"])
    seen = {"a/big": 500}
    assert planned(routes, needs=asks(max_latency_ms=100), latency_of=seen.get) == ["b/big"]


def test_a_routes_own_limits() -> None:
    slow = {"model_id": "a/big", "max_latency_ms": 100}
    dear = {"model_id": "b/big", "max_cost_usd": 0.0002}
    routes = table([slow], [dear], ["a/small"])
    few = Needs(input_tokens=100, output_tokens=50)
    assert planned(routes, needs=few) == ["a/big", "b/big", "a/small"]
    many = Needs(input_tokens=100, output_tokens=51)
    plan = routes.plan("quick", "chat", WHO, ALL, needs=many, latency_of=lambda _: 101)
    assert ids(plan) == ["a/small"]
    assert [s.why for s in plan.skipped] == ["route.max_latency_ms", "route.max_cost_usd"]
    with pytest.raises(DependencyUnavailableError):
        planned(table([slow]), latency_of=lambda _: 101)
    with pytest.raises(InvalidRequestError):
        planned(table([dear]), needs=many)


def test_a_model_comes_back_behind_its_limit() -> None:
    routes = table([{"model_id": "a/big", "max_latency_ms": 100}, "a/small"], ["a/big"])
    who = Who("tnt_a", "u", None, "run_1")
    assert set(planned(routes, who=who)) == {"a/big", "a/small"}
    assert planned(routes, who=who, latency_of=lambda _: 200) == ["a/small", "a/big"]


def test_the_worst_case_of_a_call() -> None:
    target = table().target
    big, free, any_size = target("a/big"), target("a/small"), target("b/big")
    assert big is not None
    assert free is not None
    assert any_size is not None
    assert worst_micro_usd(big, Needs(input_tokens=10, output_tokens=5)) == 20
    assert worst_micro_usd(big, Needs(input_tokens=10)) == 1010
    assert worst_micro_usd(any_size, Needs(input_tokens=10)) is None
    assert worst_micro_usd(free, Needs()) is None


def test_names_without_an_entry_take_no_memory_for_ever() -> None:
    routes = table()
    for number in range(3000):
        assert planned(routes, f"any/m{number}") == [f"any/m{number}"]
    assert len(routes._any) <= 1000
    assert len(routes._single) <= 1000
