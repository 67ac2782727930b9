"""`agentos replay run` on a real log, and without one."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agentos.cli.replay import app
from agentos.domain.replay.replay import lines_digest
from agentos.domain.run.run import run_ref
from agentos.infra.jetstream.log import JetStreamLog
from tests.cli.replay_node import TENANT, on_log, recorded_runs, run_id_of, runs
from tests.domain.replay.given import lines_of
from tests.domain.replay.recorder import kinds_of_runs
from tests.infra.embedded import EmbeddedNats

__all__ = ["recorded_runs"]
KINDS = sorted(kinds_of_runs())


@pytest.fixture(autouse=True)
def node(
    recorded_runs: EmbeddedNats, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> EmbeddedNats:
    """The settings that lead to the log."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AGENTOS_NATS_URL", recorded_runs.url)
    monkeypatch.setenv("AGENTOS_POSTGRES_DSN", "postgresql://nobody@127.0.0.1:1/none")
    monkeypatch.setenv("AGENTOS_DEFAULT_TENANT", TENANT)
    return recorded_runs


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_run_is_equal_and_has_its_recorded_digest(kind: str) -> None:
    result = CliRunner().invoke(app, ["run", run_id_of(kind), "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    records = runs()[kind]
    digest = lines_digest(lines_of(records))
    is_final = records[-1].types[-1].rpartition(".")[2] in ("completed", "failed", "canceled")
    assert found == {
        "run_id": run_id_of(kind),
        "events": len(lines_of(records)),
        "digest": digest,
        "recorded_digest": digest if is_final else None,
        "equal": True,
        "first_difference": None,
        "notes": [],
        "erased": False,
    }


def test_people_are_told_the_same() -> None:
    result = CliRunner().invoke(app, ["run", run_id_of("completed"), "--tenant", TENANT])
    assert result.exit_code == 0
    assert "byte for byte" in result.stdout


def test_a_run_that_was_changed_in_the_log_is_exit_code_1(node: EmbeddedNats) -> None:
    records = runs()["with_tools"]
    changed = [
        replace(
            record,
            ref=run_ref(TENANT, "run_changed"),
            commit_id=record.commit_id + "_changed",
            body=record.body.replace(b"run_with_tools", b"run_changed").replace(
                b'"steps_total":3', b'"steps_total":4'
            ),
        )
        for record in records
    ]

    async def write(log: JetStreamLog) -> None:
        position = 0
        for record in changed:
            position = await log.append(record, expected=position)

    on_log(node.url, write)
    result = CliRunner().invoke(app, ["run", "run_changed", "--json"])
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert found["equal"] is False
    assert found["first_difference"]["field"] == "payload.summary.steps_total"
    assert found["recorded_digest"] != found["digest"]
    shown = CliRunner().invoke(app, ["run", "run_changed"])
    assert shown.exit_code == 1
    assert "payload.summary.steps_total" in shown.stdout


@pytest.mark.parametrize("args", [["run_nobody"], ["run_completed", "--tenant", "tnt_b"], ["..>"]])
def test_another_run_or_tenant_is_not_found(args: list[str]) -> None:
    result = CliRunner().invoke(app, ["run", *args])
    assert result.exit_code == 1
    assert "not_found" in result.stderr


def test_a_step_by_its_number_and_from_a_pipe() -> None:
    one = CliRunner().invoke(app, ["run", run_id_of("with_tools"), "--step", "--at", "5", "--json"])
    found = json.loads(one.stdout)
    assert found["sequence"] == 5
    assert found["event"]["type"] == "agentos.model.completed"
    assert found["cost_usd"] == 0.25
    assert found["state"]["status"] == "running"
    assert found["elapsed_ms"] == 23
    assert found["since_last_ms"] == 20
    assert found["changed_by"]["principal"]["worker_id"] == "wrk_1"
    walked = CliRunner().invoke(
        app, ["run", run_id_of("with_tools"), "--step", "--json"], input="nnp\x1b[Bg9\nGpq"
    )
    assert walked.exit_code == 0, walked.output
    where = [json.loads(line)["sequence"] for line in walked.stdout.splitlines()]
    assert where == [1, 2, 3, 2, 3, 9, 15, 14]


def test_a_page_shows_the_event_and_the_run() -> None:
    result = CliRunner().invoke(app, ["run", run_id_of("tools_in_parallel"), "--at", "14"])
    assert result.exit_code == 0, result.output
    for text in ("event 14 of", "tool.call.completed", "$0.250000", "open", "tool.time", "wrk_1"):
        assert text in result.stdout, result.stdout


def test_walking_goes_no_further_than_the_ends() -> None:
    walked = CliRunner().invoke(
        app, ["run", run_id_of("queued"), "--step", "--json"], input="ppnng99999999999\ngxq"
    )
    where = [json.loads(line)["sequence"] for line in walked.stdout.splitlines()]
    assert set(where) == {1}
    beyond = CliRunner().invoke(app, ["run", run_id_of("queued"), "--at", "2"])
    assert beyond.exit_code == 1
    assert "events 1 to 1" in beyond.stderr


def test_options_that_do_not_go_together_are_wrong_usage() -> None:
    for args in (["--from", "2"], ["--fork"], ["--fork", "--from", "1", "--step"]):
        assert CliRunner().invoke(app, ["run", run_id_of("completed"), *args]).exit_code == 2


def test_without_a_node_it_is_exit_code_3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AGENTOS_NATS_URL")
    monkeypatch.delenv("AGENTOS_POSTGRES_DSN")
    result = CliRunner().invoke(app, ["run", run_id_of("completed")])
    assert result.exit_code == 3
    assert "agentos up" in result.stderr
