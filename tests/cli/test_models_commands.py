"""`agentos models` and `agentos config check`, as a user calls them."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from agentos.cli.main import app
from tests.gateways.conftest import Door, token
from tests.gateways.test_admin import HandledNode

Cli = Callable[..., Awaitable[Result]]
DOCUMENT: dict[str, Any] = {
    "backends": [
        {"name": "up", "kind": "openai", "base_url": "http://m.example/v1", "any_model": True}
    ],
    "models": [{"model_id": "up/a", "price": {"input_per_million": 2.5, "output_per_million": 10}}],
    "routes": [
        {
            "name": "quick",
            "chain": [
                {
                    "targets": [
                        {"model_id": "up/new", "canary": {"percent": 5}},
                        {"model_id": "up/a", "weight": 3, "max_cost_usd": 0.5},
                        {"model_id": "builtin/echo"},
                    ]
                }
            ],
            "shadow": [{"model_id": "up/b", "percent": 1}],
        }
    ],
}


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("AGENTOS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AGENTOS_DATA_DIR", str(tmp_path / "none"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
async def cli(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Cli]:
    """A remote administrator's terminal."""
    door = Door()
    await door.start()
    node = HandledNode(door)
    await node.answer()
    admin = token(roles=["platform_admin"], sub="usr_platform_admin", tenant_id="tnt_root")
    monkeypatch.setenv("AGENTOS_TOKEN", admin)

    async def run(*arguments: str) -> Result:
        given = ["models", *arguments, "--url", door.urls[0]]
        return await asyncio.to_thread(CliRunner().invoke, app, given)

    yield run
    await node.close()
    await door.close()


def written(tmp_path: Path, document: Any) -> str:
    path = tmp_path / "models.json"
    path.write_text(json.dumps(document, indent=1))
    return str(path)


async def read(cli: Cli, *arguments: str) -> Any:
    result = await cli(*arguments)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


async def test_a_catalog_from_a_file_to_the_node_and_back(cli: Cli, tmp_path: Path) -> None:
    result = await cli("publish", written(tmp_path, DOCUMENT), "--expected-version", "0")
    assert (result.exit_code, result.stdout) == (0, "version 1 holds\n")
    shown = await read(cli, "show")
    result = await cli("publish", written(tmp_path, shown))
    assert result.stdout == "version 1 holds\n"
    result = await cli("publish", written(tmp_path, {}), "--expected-version", "0")
    assert (result.exit_code, "conflict" in result.output) == (1, True)
    answer = await read(cli, "publish", written(tmp_path, {}), "--json")
    assert answer["catalog"]["version"] == 2
    assert (await read(cli, "show", "--version", "1")) == shown
    versions = await read(cli, "versions", "--json")
    assert [one["version"] for one in versions["versions"]] == [2, 1]


async def test_models_and_routes_as_tables(cli: Cli, tmp_path: Path) -> None:
    await cli("publish", written(tmp_path, DOCUMENT))
    lines = (await cli("list")).stdout.splitlines()
    (model,) = (line.split() for line in lines if line.strip().startswith("up/a"))
    assert model == ["up/a", "chat", "-", "-", "-", "2.5", "10.0"]
    assert lines[-1] == "and any other model of up"
    table = (await cli("routes")).stdout.splitlines()
    quick = [" ".join(line.split()) for line in table if line.strip().startswith("quick")]
    assert quick == [
        "quick chat 1 up/new canary: 5% of tenants -",
        "quick chat 1 up/a 75% max_cost_usd=0.5",
        "quick chat 1 builtin/echo 25% -",
        "quick chat shadow up/b copy of 1% -",
    ]
    assert (await read(cli, "list", "--json"))["version"] == 1
    assert len((await read(cli, "routes", "--json"))["routes"]) == 7
    versions = (await cli("versions")).stdout
    assert "usr_platform_admin" in versions


async def test_a_file_with_a_mistake_is_not_sent(cli: Cli, tmp_path: Path) -> None:
    result = await cli("publish", written(tmp_path, {"models": [{"model_id": "no/where"}]}))
    assert result.exit_code == 1
    assert "models.json:4: models[0].model_id: there is no backend 'no'" in result.output
    assert (await read(cli, "versions", "--json"))["versions"] == []


def check(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["config", "check", *arguments])


def test_a_check_of_what_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check().exit_code == 0
    monkeypatch.setenv("AGENTOS_MODELS_FILE", written(tmp_path, DOCUMENT))
    result = check("--json")
    assert result.exit_code == 0
    answer = json.loads(result.stdout)
    assert (answer["ok"], answer["problems"], len(answer["notes"])) == (True, [], 6)
    assert "tier:fast (chat)" in answer["notes"][0]


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (
            {"backends": [{"name": "x", "kind": "anthropic", "api_key_file": "none.key"}]},
            "none.key",
        ),
        ({"rotues": []}, "models.json:2: rotues: is no field"),
        (
            {
                "routes": [
                    {
                        "name": "quick",
                        "chain": [
                            {"targets": [{"model_id": "builtin/echo"}]},
                            {"targets": [{"model_id": "builtin/echo"}]},
                        ],
                    }
                ]
            },
            "routes[0].chain[1].targets[0].model_id: is never taken",
        ),
    ],
)
def test_a_check_of_what_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, document: Any, words: str
) -> None:
    monkeypatch.setenv("AGENTOS_MODELS_FILE", written(tmp_path, document))
    result = check()
    assert (result.exit_code, words in result.output) == (1, True), result.output
    answer = json.loads(check("--json").stdout)
    assert not answer["ok"]
    assert len(answer["problems"]) == 1


def test_a_check_of_settings_and_of_a_file_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENTOS_MODELS_FILE", str(tmp_path / "none.json"))
    assert "none.json: cannot be read" in check().output
    monkeypatch.setenv("AGENTOS_MODEL_FILE", "x")
    result = check()
    assert result.exit_code == 1
    assert "did you mean AGENTOS_MODELS_FILE" in result.output
