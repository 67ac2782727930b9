"""The worked example on the page about replay is run, in its order, and shows what it shows."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from agentos.cli.replay import app as replay
from agentos.cli.state import app as state
from tests.cli.replay_node import TENANT, recorded_runs
from tests.docs.pages import ROOT, blocks
from tests.infra.embedded import EmbeddedNats

__all__ = ["recorded_runs"]
PAGE = ROOT / "docs" / "replay.md"


def examples() -> list[tuple[list[str], list[str]]]:
    """Return each command with the lines that stand below it."""
    found: list[tuple[list[str], list[str]]] = []
    for block in blocks(PAGE, "console"):
        for line in block.splitlines():
            if line.startswith("$ agentos "):
                found.append((line.removeprefix("$ agentos ").split(), []))
            else:
                found[-1][1].append(line)
    return found


def test_the_example_goes_as_it_says(
    recorded_runs: EmbeddedNats, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AGENTOS_NATS_URL", recorded_runs.url)
    monkeypatch.setenv("AGENTOS_POSTGRES_DSN", "postgresql://nobody@127.0.0.1:1/none")
    monkeypatch.setenv("AGENTOS_DEFAULT_TENANT", TENANT)
    ran = 0
    for (group, *args), shown in examples():
        result = CliRunner().invoke({"replay": replay, "state": state}[group], args)
        assert result.exit_code == 0, (args, result.output)
        said = " ".join(result.stdout.split())
        for line in shown:
            assert " ".join(line.split()) in said, (args, line, result.stdout)
        ran += 1
    assert ran == 7
