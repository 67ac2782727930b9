"""`agentos replay rebuild` against real servers, and without them."""

import asyncio
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agentos.cli.replay import app
from agentos.infra.jetstream.connection import bounded_close, connect
from agentos.infra.jetstream.log import JetStreamLog
from agentos.infra.jetstream.streams import ensure_log
from tests.infra.embedded import EmbeddedNats, EmbeddedPostgres
from tests.projections.script import Move, Script

RUN = [Move(0, action, 0.2, "x", False) for action in (1, 0, 2, 3, 10)]


@pytest.fixture
def node(
    own_nats_server: EmbeddedNats,
    own_postgres_server: EmbeddedPostgres,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> EmbeddedNats:
    """Both servers, a run in the log, and the settings that lead there; returns the broker."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AGENTOS_NATS_URL", own_nats_server.url)
    monkeypatch.setenv("AGENTOS_POSTGRES_DSN", own_postgres_server.dsn)
    asyncio.run(fill(own_nats_server.url))
    return own_nats_server


async def fill(url: str) -> None:
    """Write one run into the log."""
    connection = await connect(url, "test")
    await ensure_log(connection, expect_log=False)
    log, position = JetStreamLog(connection), 0
    for record in Script().play(RUN).records:
        position = await log.append(record, expected=position)
    await bounded_close(connection)


def test_it_rebuilds_and_compares(node: EmbeddedNats) -> None:
    first = CliRunner().invoke(app, ["rebuild", "--json"])
    assert first.exit_code == 0, first.output
    found = json.loads(first.stdout)
    assert (found["position"], found["identical"]) == (5, None)
    again = json.loads(CliRunner().invoke(app, ["rebuild", "--json"]).stdout)
    assert again["identical"] is True
    tables = {t["table"] for t in again["tables"]}
    assert {"run_labels", "runs", "run_steps", "agents", "remote_runs"} <= tables
    assert all(t["digest"] == t["digest_before"] for t in again["tables"])
    shown = CliRunner().invoke(app, ["rebuild", "runs"])
    assert "identical" in shown.stdout
    assert "events/s" in shown.stderr


def test_digests_are_those_of_the_rebuild(node: EmbeddedNats) -> None:
    built = json.loads(CliRunner().invoke(app, ["rebuild", "--json"]).stdout)
    result = CliRunner().invoke(app, ["digest", "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)["projections"]
    assert all(p["position"] == built["position"] for p in found)
    digests = {t["table"]: t["digest"] for p in found for t in p["tables"]}
    assert digests == {t["table"]: t["digest"] for t in built["tables"]}
    one = json.loads(CliRunner().invoke(app, ["digest", "runs", "--json"]).stdout)
    assert [p["name"] for p in one["projections"]] == ["runs"]
    assert "run_labels" in CliRunner().invoke(app, ["digest"]).stdout
    assert CliRunner().invoke(app, ["digest", "nothing"]).exit_code == 2


def test_a_broker_that_is_down_is_exit_code_3(
    node: EmbeddedNats, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.stop()
    monkeypatch.setattr("agentos.cli.replay_rebuild.CONNECT_TIMEOUT_S", 0.5)
    result = CliRunner().invoke(app, ["rebuild"])
    assert result.exit_code == 3
    assert "agentos up" in result.stderr


def test_without_a_node_it_is_exit_code_3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["rebuild"])
    assert result.exit_code == 3
    assert "`agentos up`" in result.stderr
    other = CliRunner().invoke(app, ["rebuild", "--data-dir", "other"])
    assert other.exit_code == 3
    assert f"`agentos up --data-dir {tmp_path}/other`" in other.stderr


def test_an_unknown_projection_is_wrong_usage() -> None:
    result = CliRunner().invoke(app, ["rebuild", "nothing"])
    assert result.exit_code == 2
    assert "run_steps" in result.stderr
