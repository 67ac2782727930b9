"""The models page: its example holds as it stands there, and its tables name every field."""

from pathlib import Path

from agentos.domain.models.catalog import BackendEntry, Catalog, ModelEntry, RouteEntry
from agentos.domain.models.plan import Who
from agentos.domain.models.routing import RoutingTable
from agentos.infra.models.catalog_file import read_models_file
from tests.docs.pages import ROOT, blocks, code_spans

PAGE = ROOT / "docs" / "models.md"


def example(tmp_path: Path) -> Catalog:
    (text,) = blocks(PAGE, "json")
    path = tmp_path / "models.json"
    path.write_text(text)
    return read_models_file(path)


def test_the_example_holds(tmp_path: Path) -> None:
    routes = RoutingTable(example(tmp_path), 1)
    whos = [Who(f"tnt_{n}", "usr", None, f"run_{n}") for n in range(400)]
    plans = [routes.plan("tier:fast", "chat", who, lambda *_: True) for who in whos]
    first = [plan.targets[0].model_id for plan in plans]
    assert set(first) == {"main/next", "main/small"}
    assert 5 <= first.count("main/next") <= 40
    assert {plan.targets[-1].model_id for plan in plans} == {"spare/swift"}
    house = [routes.plan("house-model", "chat", who, lambda *_: True) for who in whos]
    assert 250 <= [p.targets[0].model_id for p in house].count("main/small") <= 350


def test_every_field_is_on_the_page() -> None:
    named = set(code_spans(PAGE))
    for part in (BackendEntry, ModelEntry, RouteEntry):
        missing = set(part.model_fields) - {name.partition(" ")[0] for name in named}
        assert not missing, part.__name__
