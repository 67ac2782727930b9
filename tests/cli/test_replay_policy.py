"""`agentos replay policy` on a real log."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agentos.cli.replay import app
from tests.cli.replay_node import TENANT, recorded_runs, runs
from tests.infra.embedded import EmbeddedNats

__all__ = ["recorded_runs"]
NO_TOOLS = {
    "name": "no tools",
    "rules": [{"name": "no_tools", "effect": "block", "when": {"direction": ["tool_input"]}}],
}


@pytest.fixture(autouse=True)
def node(recorded_runs: EmbeddedNats, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings that lead to the log, and a policy to try."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AGENTOS_NATS_URL", recorded_runs.url)
    monkeypatch.setenv("AGENTOS_POSTGRES_DSN", "postgresql://nobody@127.0.0.1:1/none")
    (tmp_path / "policy.json").write_text(json.dumps(NO_TOOLS))


def test_it_counts_what_would_have_been() -> None:
    lines = [line for records in runs().values() for r in records for line in r.lines()]
    calls = [line for line in lines if b'"agentos.model.completed"' in line]
    with_tools = [line for line in calls if b'"tool_call_id"' in line]
    all_of_it = ["policy", "policy.json", "--since", "2020-01-01T00:00:00Z"]
    result = CliRunner().invoke(app, [*all_of_it, "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["decisions"] == len(calls)
    assert found["changed"] == found["would_block"] == len(with_tools)
    assert found["cost_delta_usd"] == -0.25 * len(with_tools)
    assert found["would_redact"] == 0
    assert len(found["changes"]) == len(with_tools)
    assert [row["tenant_id"] for row in found["tenants"]] == [TENANT]
    other = CliRunner().invoke(
        app, ["policy", "policy.json", "--tenant", "tnt_b", "--since", "9999w", "--json"]
    )
    assert json.loads(other.stdout)["decisions"] == 0
    shown = CliRunner().invoke(app, all_of_it)
    assert shown.exit_code == 0
    assert "block:no_tools" in shown.stdout


@pytest.mark.parametrize(
    "args",
    [
        ["nothing.json"],
        ["policy.json", "--since", "soon"],
        ["policy.json", "--since", "7y"],
        ["policy.json", "--tenant", "..>"],
        ["bad.json"],
    ],
)
def test_what_makes_no_sense_is_wrong_usage(args: list[str], tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("{")
    result = CliRunner().invoke(app, ["policy", *args])
    assert result.exit_code == 2, result.output
    assert result.stderr
