"""Capsules from one machine to another: exported, imported, replayed, walked, checked."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agentos.cli import replay_capsules
from agentos.cli.replay import app
from agentos.cli.replay_redactor import Redactor
from agentos.infra.jetstream.log import JetStreamLog
from tests.cli.replay_node import TENANT, on_log, recorded_runs, run_id_of, runs
from tests.domain.replay.given import lines_of
from tests.domain.replay.recorder import DEFINITION, Recorder, kinds_of_runs
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


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """From here on it is another machine: no node, and a data directory of its own."""

    def leave() -> Path:
        monkeypatch.delenv("AGENTOS_NATS_URL")
        monkeypatch.delenv("AGENTOS_POSTGRES_DSN")
        return tmp_path / "other"

    return leave  # type: ignore[return-value]  # called when it is time


def call(*args: str, code: int = 0, **more: Any) -> Any:
    """Run a command and return its JSON."""
    result = CliRunner().invoke(app, [*args, "--json"], **more)
    assert result.exit_code == code, (result.output, result.exception)
    return json.loads(result.stdout)


def fails(*args: str, code: int) -> str:
    """Run a command that fails and return what it says."""
    result = CliRunner().invoke(app, list(args))
    assert result.exit_code == code, (result.output, result.exception)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_travels_and_replays_elsewhere(kind: str, offline: Any) -> None:
    made = call("export", run_id_of(kind), "--raw", "-o", "a.capsule")
    assert (made["runs"], made["events"]) == (1, len(lines_of(runs()[kind])))
    here = call("run", run_id_of(kind))
    there = offline()
    found = call("import", "a.capsule", "--data-dir", str(there))
    assert found["capsule_id"] == made["capsule_id"]
    assert found["runs"] == [{"tenant_id": TENANT, "run_id": run_id_of(kind)}]
    assert found["signer"] == made["signer"]
    assert found["signer_known"] is False
    again = call("run", "--capsule", found["capsule_id"], "--data-dir", str(there))
    assert again["equal"] is True
    assert again["digest"] == again["recorded_digest"] == here["digest"]
    assert again["original_digest"] == here["digest"]


def test_an_import_never_takes_the_place_of_another_capsule(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(replay_capsules, "SystemIds", lambda: lambda prefix: f"{prefix}_same")
    call("export", run_id_of("with_tools"), "--raw", "-o", "a.capsule")
    call("export", run_id_of("tools_in_parallel"), "--raw", "-o", "b.capsule")
    where = ("--data-dir", str(tmp_path / "other"))
    kept = Path(call("import", "a.capsule", *where)["file"])
    assert call("import", "a.capsule", *where)["file"] == str(kept)
    assert "another capsule" in fails("import", "b.capsule", *where, code=1)
    assert kept.read_bytes() == Path("a.capsule").read_bytes()
    assert [path.name for path in kept.parent.iterdir()] == [kept.name]


def test_one_can_step_through_it_without_a_node(offline: Any) -> None:
    call("export", run_id_of("with_tools"), "--raw", "-o", "a.capsule")
    offline()
    point = call("run", "--capsule", "a.capsule", "--step", "--at", "7")
    assert point["event"]["type"] == "agentos.run.step.started"
    walked = CliRunner().invoke(app, ["run", "--capsule", "a.capsule", "--step"], input="nq")
    assert walked.exit_code == 0
    assert "event 2 of" in walked.stdout


def test_what_is_redacted_still_replays(monkeypatch: pytest.MonkeyPatch) -> None:
    hide = Redactor("test@1", lambda text: text.replace("hello", "[HIDDEN]").replace("one", "1"))
    monkeypatch.setattr(replay_capsules, "default_redactor", lambda: hide)
    made = call("export", run_id_of("tools_in_parallel"), "-o", "a.capsule")
    assert made["redacted_by"] == "test@1"
    found = call("run", "--capsule", "a.capsule")
    assert found["equal"] is True
    assert found["digest"] != found["original_digest"]
    assert found["original_digest"] == call("run", run_id_of("tools_in_parallel"))["digest"]
    shown = CliRunner().invoke(app, ["run", "--capsule", "a.capsule", "--at", "1"]).stdout
    assert "[HIDDEN]" in shown
    assert "hello" not in shown


def test_what_the_built_in_policy_knows_is_taken_out(node: EmbeddedNats) -> None:
    mail, card = "anna@example.org", "4111 1111 1111 1111"
    made = Recorder(f"write to {mail}", run_id="run_mail").start().model("", ["tool.echo"])
    made.tools([{"to": mail, "paid_with": [card]}]).model(f"sent to {mail}")

    async def write(log: JetStreamLog) -> None:
        position = 0
        for record in made.records:
            position = await log.append(record, expected=position)

    on_log(node.url, write)
    call("export", "run_mail", "-o", "a.capsule")
    found = call("run", "--capsule", "a.capsule")
    assert found["equal"] is True
    assert found["digest"] != found["original_digest"]
    points = CliRunner().invoke(
        app, ["run", "--capsule", "a.capsule", "--step", "--json"], input="n" * 20
    )
    assert "sent to" in points.stdout
    assert mail not in points.stdout
    assert card not in points.stdout


def test_all_runs_between_two_times() -> None:
    everything = ("2027-01-01T00:00:00Z", "2027-02-01T00:00:00Z")
    made = call("export", "--between", *everything, "--raw", "-o", "all.capsule")
    assert made["runs"] >= len(KINDS)
    assert made["events"] >= sum(len(lines_of(records)) for records in runs().values())
    result = call("run", run_id_of("dry_run"), "--capsule", "all.capsule")
    assert result["equal"] is True
    assert "name one" in fails("run", "--capsule", "all.capsule", code=2)
    assert "not_found" in fails("run", "run_x", "--capsule", "all.capsule", code=1)
    none = call(
        "export", "--between", "2020-01-01T00:00:00Z", "2020-01-02T00:00:00Z",
        "--raw", "-o", "none.capsule",
    )  # fmt: skip
    assert none["runs"] == 0


def test_a_folder_of_capsules_is_a_regression_test(tmp_path: Path) -> None:
    folder = tmp_path / "capsules"
    folder.mkdir()
    for kind in KINDS:
        call("export", run_id_of(kind), "--raw", "-o", str(folder / f"{kind}.capsule"))
    found = call("check", str(folder))
    assert (found["ok"], found["runs"], found["equal"]) == (True, len(KINDS), len(KINDS))
    agents = tmp_path / "agents"
    agents.mkdir()
    other = DEFINITION.model_copy(update={"tools": ("tool.time", "tool.kv.put")})
    (agents / "agt_a.json").write_text(other.model_dump_json())
    found = call("check", str(folder), "--agents", str(agents), code=1)
    assert found["ok"] is False
    named = {row["run_id"] for row in found["differences"]}
    assert run_id_of("with_tools") in named
    assert run_id_of("queued") not in named
    shown = CliRunner().invoke(app, ["check", str(folder), "--agents", str(agents)])
    assert shown.exit_code == 1
    assert "different" in shown.stdout
    capsule = folder / "queued.capsule"
    capsule.write_bytes(capsule.read_bytes()[:400])
    found = call("check", str(folder), code=1)
    assert [row["capsule"] for row in found["differences"]] == ["queued.capsule"]


def test_a_signer_that_is_asked_for_must_have_signed(tmp_path: Path) -> None:
    made = call("export", run_id_of("queued"), "--raw", "-o", "a.capsule")
    assert call("import", "a.capsule")["signer_known"] is True
    assert call("import", "a.capsule", "--trust", made["signer"])["signer_known"] is True
    assert "not by" in fails("import", "a.capsule", "--trust", "0" * 32, code=1)


def test_what_cannot_be_done_says_so(tmp_path: Path) -> None:
    fails("export", "-o", "a.capsule", "--raw", code=2)
    fails("export", "run_x", "--between", "a", "b", "-o", "a.capsule", "--raw", code=2)
    fails("export", "--between", "a", "b", "-o", "a.capsule", "--raw", code=2)
    later = ("2027-01-02T00:00:00Z", "2027-01-01T00:00:00Z")
    fails("export", "--between", *later, "-o", "a.capsule", "--raw", code=2)
    fails("export", run_id_of("queued"), "-o", "no/such/a.capsule", "--raw", code=2)
    assert "not_found" in fails("export", "run_x", "-o", "a.capsule", "--raw", code=1)
    (tmp_path / "x.capsule").write_bytes(b"x")
    (tmp_path / "d").mkdir()
    for args in (["import", "x.capsule"], ["run", "--capsule", "x.capsule"], ["import", "d"]):
        assert "no capsule" in fails(*args, code=1)
    fails("import", "nothing.capsule", code=1)
    fails("check", "nothing", code=2)
    fails("check", "d", code=2)
    fails("run", code=2)
    shutil.copy("x.capsule", "d/x.capsule")
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents" / "agt_a.json").write_text("{}")
    fails("check", "d", "--agents", "agents", code=2)
    assert sorted(p.name for p in tmp_path.iterdir() if p.suffix == ".capsule") == ["x.capsule"]
