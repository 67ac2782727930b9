"""What a node tells its peers of its models: nothing that is not in its catalog."""

from hypothesis import given
from hypothesis import strategies as st

from agentos.domain.federation.models import ModelsHere, models_here
from agentos.domain.models.catalog import (
    TIERS,
    BackendEntry,
    Catalog,
    ModelEntry,
    RouteEntry,
    Step,
    TargetEntry,
)
from agentos.domain.models.defaults import DEFAULT_CATALOG, completed

ACME = BackendEntry(name="acme", kind="openai", base_url="http://acme.example/v1")


def model(name: str, window: int | None = None) -> ModelEntry:
    return ModelEntry(model_id=f"acme/{name}", context_window_tokens=window)


def route(name: str, *models: str) -> RouteEntry:
    steps = tuple(Step(targets=(TargetEntry(model_id=one),)) for one in models)
    return RouteEntry(name=name, chain=steps)


def test_a_node_as_it_comes() -> None:
    assert models_here(DEFAULT_CATALOG) == ModelsHere(TIERS, ("builtin",), 1_000_000)


def test_a_tier_that_only_ends_at_the_box_is_none_beside_real_backends() -> None:
    catalog = completed(
        Catalog(
            backends=(ACME,),
            models=(model("m", 8_000), model("n")),
            routes=(
                route("tier:premium", "acme/m", "builtin/echo"),
                route("tier:fast", "builtin/echo"),
                route("an-alias", "acme/m"),
            ),
        )
    )
    assert models_here(catalog) == ModelsHere(("premium",), ("acme",), 8_000)


def test_a_window_that_nobody_says_is_not_made_up() -> None:
    catalog = completed(Catalog(backends=(ACME,), models=(model("m"),)))
    assert models_here(catalog) == ModelsHere((), ("acme",), None)


@given(st.lists(st.sampled_from(TIERS), unique=True), st.lists(st.integers(1, 10**6)))
def test_what_is_told_is_in_the_catalog(tiers: list[str], windows: list[int]) -> None:
    models = tuple(model(f"m{at}", window) for at, window in enumerate(windows))
    routes = tuple(route(f"tier:{tier}", "acme/m0") for tier in tiers if windows)
    found = models_here(completed(Catalog(backends=(ACME,), models=models, routes=routes)))
    assert set(found.tiers) == ({*tiers} if windows else set())
    assert found.max_context_tokens in ({max(windows)} if windows else {None, 1_000_000})
