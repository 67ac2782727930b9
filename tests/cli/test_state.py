"""`agentos state` on a real log."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agentos.cli.state import app
from tests.cli.replay_node import TENANT, recorded_runs, run_id_of
from tests.infra.embedded import EmbeddedNats

__all__ = ["recorded_runs"]


@pytest.fixture(autouse=True)
def node(recorded_runs: EmbeddedNats, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings that lead to the log."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AGENTOS_NATS_URL", recorded_runs.url)
    monkeypatch.setenv("AGENTOS_POSTGRES_DSN", "postgresql://nobody@127.0.0.1:1/none")
    monkeypatch.setenv("AGENTOS_DEFAULT_TENANT", TENANT)


def test_a_run_as_it_was_by_sequence_and_by_time() -> None:
    run_id = run_id_of("with_tools")
    result = CliRunner().invoke(app, ["run", run_id, "--at", "2", "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found.keys() == {"at", "sequence", "state", "changed_by"}
    assert (found["sequence"], found["state"]["status"]) == (2, "running")
    assert found["changed_by"]["type"] == "agentos.run.started"
    at = found["changed_by"]["time"]
    timed = json.loads(CliRunner().invoke(app, ["run", run_id, "--at", at, "--json"]).stdout)
    assert timed["sequence"] == 4
    now = json.loads(CliRunner().invoke(app, ["run", run_id, "--json"]).stdout)
    assert now["state"]["status"] == "completed"
    shown = CliRunner().invoke(app, ["run", run_id])
    assert "changed by" in shown.stdout
    assert "completed" in shown.stdout


def test_an_agent() -> None:
    found = json.loads(CliRunner().invoke(app, ["agent", "agt_a", "--json"]).stdout)
    assert found["state"]["model_ref"] == "builtin/echo"


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["run", "run_nobody"], 1),
        (["run", run_id_of("completed"), "--tenant", "tnt_b"], 1),
        (["run", "a.b>"], 1),
        (["tenant", "tnt_b"], 1),
        (["tenant", "*"], 1),
        (["quota", "tnt_a"], 1),
        (["run", run_id_of("completed"), "--at", "0"], 1),
        (["run", run_id_of("completed"), "--at", "1999-01-01T00:00:00Z"], 1),
        (["quota", "money"], 2),
        (["key", "key_1"], 2),
        (["run", run_id_of("completed"), "--at", "yesterday"], 2),
        (["run", run_id_of("completed"), "--at", "2026-01-01T00:00:00"], 2),
        (["run", run_id_of("completed"), "--at", "0001-01-01T00:00:00+23:00"], 2),
    ],
)
def test_what_is_not_there_or_makes_no_sense(args: list[str], code: int) -> None:
    result = CliRunner().invoke(app, args)
    assert result.exit_code == code, result.output
    assert result.stderr
    assert not isinstance(result.exception, Exception) or isinstance(result.exception, SystemExit)
