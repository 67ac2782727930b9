"""The models file: read once, with every mistake named by line and field."""

import json
from pathlib import Path
from typing import Any

import pytest

from agentos.domain.models.defaults import DEFAULT_CATALOG
from agentos.infra.models.catalog_file import (
    ModelsFileError,
    line_of,
    node_catalog,
    read_models_file,
)
from agentos.infra.models.keys import key_of, missing_keys, read_key
from agentos.infra.settings import Settings

WRONG = """{
  "backends": [
    {"name": "up", "kind": "openai", "base_url": "http://m.example/v1"}
  ],
  "models": [
    {"model_id": "up/a"},
    {
      "model_id": "up/b",
      "price": {"input_per_million": -1, "output_per_million": 2}
    }
  ],
  "routes": [
    {"name": "tier:fast",
     "chain": [{"targets": [
        {"model_id": "up/a", "weight": 0}
     ]}]},
    {"name": "quick", "chians": []}
  ]
}
"""


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import os

    for name in [name for name in os.environ if name.startswith("AGENTOS_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def written(tmp_path: Path, content: Any) -> Path:
    path = tmp_path / "models.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def settings(tmp_path: Path, **variables: str) -> Settings:
    names = {f"AGENTOS_{name.upper()}": value for name, value in variables.items()}
    return Settings.load({"AGENTOS_DATA_DIR": str(tmp_path / "data"), **names})


def problems(path: Path) -> list[str]:
    with pytest.raises(ModelsFileError) as caught:
        read_models_file(path)
    return [problem.removeprefix(f"{path}:") for problem in caught.value.problems]


def test_every_mistake_has_its_line_and_field(tmp_path: Path) -> None:
    found = problems(written(tmp_path, WRONG))
    assert [problem.split(": ")[:2] for problem in found] == [
        ["9", "models[1].price.input_per_million"],
        ["15", "routes[0].chain[0].targets[0].weight"],
        ["17", "routes[1].chain"],
        ["17", "routes[1].chians"],
    ]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{\n"models": [\n}', "3: not JSON"),
        ('{"models": [], "models": []}', "'models' stands twice"),
        ('{"models": NaN}', "NaN is no number"),
        ("[" * 100_000, ""),
        ("[]", "1: the document"),
        ("", "1: not JSON"),
    ],
)
def test_what_is_no_document_is_an_error(tmp_path: Path, content: str, words: str) -> None:
    assert words in problems(written(tmp_path, content))[0]


def test_what_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    assert "cannot be read" in problems(tmp_path / "none.json")[0]
    path = tmp_path / "binary.json"
    path.write_bytes(b"{\xff}")
    assert "not UTF-8" in problems(path)[0]
    path.write_bytes(b" " * (4 * 2**20 + 1))
    assert "over 4 MiB" in problems(path)[0]


def test_a_line_is_found_however_it_is_written() -> None:
    text = '{\n\n "a" : [ 1,\n {"b" : \n"x"}, "y" ], "c": {} }'
    assert line_of(text, ("a", 0)) == 3
    assert line_of(text, ("a", 1, "b")) == 5
    assert line_of(text, ("a", 2)) == 5
    assert line_of(text, ("a", 9)) == 3
    assert line_of(text, ("a", 1, "none", 3)) == 4
    assert line_of(text, ()) == 1


def test_the_box_the_settings_and_the_file(tmp_path: Path) -> None:
    assert node_catalog(settings(tmp_path)) == (DEFAULT_CATALOG, "default")
    server = {"openai_base_url": "http://s.example/v1", "openai_models": "a,b,a"}
    catalog, source = node_catalog(settings(tmp_path, **server))
    assert source == "default"
    assert [m.model_id for m in catalog.models if m.backend == "openai"] == ["openai/a", "openai/b"]
    route = {"name": "quick", "chain": [{"targets": [{"model_id": "openai/a"}]}]}
    models = [{"model_id": "openai/a", "tier": "premium"}]
    path = written(tmp_path, {"models": models, "routes": [route]})
    catalog, source = node_catalog(settings(tmp_path, models_file=str(path), **server))
    assert source == "file"
    assert [m.tier for m in catalog.models if m.backend == "openai"] == ["premium", None]
    with pytest.raises(ModelsFileError, match="no backend 'openai'"):
        node_catalog(settings(tmp_path, models_file=str(path)))


def test_keys_come_from_files_and_are_missed_by_their_place(tmp_path: Path) -> None:
    names = ("beside.key", "./near.key", "empty.key", "none.key")
    backends = [
        {"name": f"b{n}", "kind": "anthropic", "api_key_file": k} for n, k in enumerate(names)
    ]
    path = written(tmp_path, {"backends": backends})
    keys = tmp_path / "data" / "model_keys"
    keys.mkdir(parents=True)
    (keys / "beside.key").write_text("one\n")
    (tmp_path / "near.key").write_text("two\n")
    (keys / "empty.key").write_text("\n")
    found = settings(tmp_path, models_file=str(path))
    catalog, _ = node_catalog(found)
    assert [key_of(found, entry) for entry in catalog.backends[:2]] == ["one", "two"]
    assert missing_keys(catalog.backends, found.data_dir) == [
        "backends[2].api_key_file: empty.key: holds no key",
        "backends[3].api_key_file: none.key: No such file or directory",
    ]
    (keys / "binary.key").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="holds no key") as caught:
        read_key("binary.key", found.data_dir)
    assert caught.value.__cause__ is None


def test_the_settings_key_goes_to_the_settings_server_only(tmp_path: Path) -> None:
    own = settings(tmp_path, openai_base_url="http://s.example/v1", openai_api_key="k")
    catalog, _ = node_catalog(own)
    (entry,) = (b for b in catalog.backends if b.name == "openai")
    assert key_of(own, entry) == "k"
    assert key_of(own, entry.model_copy(update={"base_url": "http://other.example"})) is None
    assert key_of(own, catalog.backends[0]) is None
    (tmp_path / "secret").write_text("from-file\n")
    names = {"openai_base_url": "http://s.example/v1", "openai_api_key_file": "secret"}
    filed = settings(tmp_path, **names)
    catalog, _ = node_catalog(filed)
    (entry,) = (b for b in catalog.backends if b.name == "openai")
    assert entry.api_key_file == str(tmp_path / "secret")
    assert key_of(filed, entry) == "from-file"
