"""The commands against a node with stub processes, as a user calls them."""

import base64
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jwt
import pytest
from typer.testing import CliRunner, Result

import agentos.cli.up
from agentos.cli.main import app
from agentos.cli.node_client import stop_node
from agentos.infra.node.last_start import changed_settings, remember_start
from agentos.infra.node.paths import NodePaths
from agentos.infra.settings import Settings
from tests.infra.embedded import EmbeddedNats, EmbeddedPostgres, alive, eventually, short_directory
from tests.infra.node.stub_node import environment, start_stub_node


@dataclass
class Terminal:
    """A user's terminal on a machine with one node."""

    root: Path
    environ: dict[str, str]
    started: "list[subprocess.Popen[bytes]]"

    @property
    def paths(self) -> NodePaths:
        return NodePaths(self.root / "data")

    def create(self) -> Settings:
        """Make the data directory and return the settings that hold now."""
        self.paths.create()
        return Settings.load()

    def run(self, *arguments: str) -> Result:
        """Run a command in this process."""
        return CliRunner().invoke(app, list(arguments), catch_exceptions=False)

    def shell(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run a command as a program, for its exit code and its error output."""
        program = Path(sys.executable).with_name("agentos")
        return subprocess.run(
            [str(program), *arguments],
            env=self.environ,
            cwd=self.root,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )


@pytest.fixture
def terminal(
    postgres_server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Terminal]:
    root = short_directory()
    environ = environment(root / "data", AGENTOS_POSTGRES_DSN=postgres_server.dsn)
    for name, value in environ.items():
        if name.startswith("AGENTOS_"):
            monkeypatch.setenv(name, value)
    monkeypatch.chdir(root)
    started: list[subprocess.Popen[bytes]] = []

    def start(settings: Settings) -> "subprocess.Popen[bytes]":
        started.append(
            start_stub_node(settings.child_environment() | {"PYTHONPATH": environ["PYTHONPATH"]})
        )
        return started[-1]

    monkeypatch.setattr(agentos.cli.up, "start_supervisor", start)
    yield Terminal(root, environ, started)
    stop_node(NodePaths(root / "data"))
    for process in started:
        process.wait(10)
    shutil.rmtree(root)


def test_up_shows_its_phases_is_idempotent_and_reports(terminal: Terminal) -> None:
    first = terminal.run("up", "--mode", "dev")
    assert first.exit_code == 0, first.output
    lines = first.output.splitlines()
    assert lines[0].startswith("durability: process (survives")
    for phase in ("preflight", "boot", "wire", "validate", "report"):
        assert any(line.startswith(phase) for line in lines), phase
    again = terminal.run("up", "--mode", "dev")
    assert again.exit_code == 0
    assert len(terminal.started) == 1
    report = max((terminal.root / "data-reports").glob("up-*.json"))
    content = json.loads(report.read_text())
    assert content["ok"]
    assert {"host", "versions", "ports", "seeded", "checks", "alerts", "next_steps"} <= set(content)
    assert all(check["ok"] and check["ms"] >= 0 for check in content["checks"])
    assert report.with_suffix(".md").read_text().startswith("# up: done")


def test_status_has_the_contracts_shape(terminal: Terminal) -> None:
    up = terminal.run("up", "--mode", "dev")
    assert up.exit_code == 0, up.output
    result = terminal.run("status", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.output)
    assert found["state"] == "ready"
    assert found["mode"] == "dev"
    assert found["durability"].startswith("process (")
    assert found["durability"].endswith("verified")
    assert set(found["endpoints"]) == {"orchestrator", "model_policy", "federation"}
    names = {p["name"] for p in found["processes"]}
    assert names == {"nats", "gateway", "executor-1", "executor-2"}
    for process in found["processes"]:
        assert {"name", "pid", "state", "restarts", "started_at"} <= set(process)
        assert alive(process["pid"])
    assert alive(found["supervisor"]["pid"])
    assert set(found["log"]) == {"last_sequence"}
    assert isinstance(found["projections"], list)
    shown = terminal.run("status")
    assert "executor-2" in shown.output
    assert shown.output.startswith("durability: process")


def test_a_node_that_is_not_up_is_unreachable(terminal: Terminal) -> None:
    status = terminal.shell("status", "--json")
    assert status.returncode == 3
    assert json.loads(status.stdout)["state"] == "stopped"
    assert terminal.shell("restart", "gateway").returncode == 3
    assert terminal.shell("logs").returncode == 3
    token = terminal.shell("token", "--role", "tenant_admin")
    assert token.returncode == 3
    down = terminal.shell("down")
    assert (down.returncode, down.stdout) == (0, "the node was not up\n")


def test_redeploy_goes_by_the_flags_of_up(terminal: Terminal) -> None:
    terminal.run("up", "--mode", "demo", "--durability", "power", "--json")
    before = json.loads(terminal.run("status", "--json").output)
    result = terminal.run("redeploy", "--json")
    after = json.loads(terminal.run("status", "--json").output)
    assert after["mode"] == before["mode"] == "demo", result.output
    assert after["supervisor"]["pid"] != before["supervisor"]["pid"]


def test_restart_logs_and_down(terminal: Terminal) -> None:
    terminal.run("up", "--mode", "dev")
    restarted = terminal.run("restart", "executor", "--json")
    assert len(json.loads(restarted.output)["restarted"]) == 2
    assert terminal.run("restart", "nobody").exit_code == 2
    last = ("logs", "executor-1", "-n", "1")
    eventually(lambda: terminal.run(*last).output == "executor at work\n")
    eventually(lambda: "executor-2: executor" in terminal.run("logs", "executor").output)
    assert terminal.run("logs", "nobody").exit_code == 2
    assert terminal.run("down").output == "the node is down\n"
    assert terminal.paths.jwt_secret.exists()
    assert terminal.run("status").exit_code == 3


def test_a_failed_start_says_what_failed_and_what_to_do(terminal: Terminal) -> None:
    terminal.paths.create()
    terminal.paths.marker.write_text('{"layout": 1, "log_created": true}')
    result = terminal.run("up", "--mode", "dev")
    assert result.exit_code == 1
    assert "✗ log" in result.output
    assert "next: restore" in result.output
    where = f"--data-dir {terminal.paths.data}"
    assert f"agentos nuke --hard --yes-really {where}" in result.output
    assert "[INF]" not in result.output
    report = max((terminal.root / "data-reports").glob("up-*.json"))
    assert json.loads(report.read_text())["next_steps"][0].endswith(where)
    status = terminal.run("status")
    assert f"next: agentos up {where}" in status.output
    assert "None" not in status.output
    terminal.paths.marker.write_text('{"layout": 9}')
    refused = terminal.shell("up", "--mode", "dev")
    assert refused.returncode == 1
    assert "has layout 9" in refused.stderr
    assert "next: " in refused.stderr


def test_a_node_in_the_foreground_ends_with_its_command(terminal: Terminal) -> None:
    program = (
        "import agentos.cli.up as up, agentos.cli.main as main\n"
        "from tests.infra.node.stub_node import start_stub_node\n"
        "up.start_supervisor = lambda s: start_stub_node("
        f"s.child_environment() | {{'PYTHONPATH': {terminal.environ['PYTHONPATH']!r}}})\n"
        "main.main()\n"
    )
    command = [sys.executable, "-c", program, "up", "--mode", "dev", "--foreground"]
    process = subprocess.Popen(command, env=terminal.environ, stdout=subprocess.DEVNULL)
    eventually(lambda: terminal.run("status").exit_code == 0, within=20)
    assert process.poll() is None
    process.terminate()
    assert process.wait(20) == 0
    assert terminal.run("status").exit_code == 3


def test_nuke_asks_first_and_hard_removes_all(terminal: Terminal) -> None:
    terminal.run("up", "--mode", "dev")
    (terminal.paths.data / "not-ours").write_text("stays")
    assert terminal.run("nuke").exit_code == 2
    assert terminal.run("nuke", "--hard").exit_code == 2
    assert terminal.run("status").exit_code == 0
    assert terminal.run("nuke", "--yes-really").exit_code == 0
    assert terminal.paths.jwt_secret.exists()
    assert terminal.paths.nats.exists()
    assert not terminal.paths.control.exists()
    assert terminal.run("nuke", "--hard", "--yes-really").exit_code == 0
    assert [path.name for path in terminal.paths.data.iterdir()] == ["not-ours"]


def test_nuke_names_the_servers_that_it_leaves_alone(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENTOS_POSTGRES_DSN", "postgresql://me:secret@db.example/x")
    monkeypatch.setenv("AGENTOS_NATS_URL", "nats://token@nats.example:4222")
    remember_start(terminal.paths, terminal.create())
    monkeypatch.delenv("AGENTOS_NATS_URL")
    result = terminal.run("nuke", "--hard", "--yes-really")
    assert result.exit_code == 0
    last = result.output.splitlines()[-1]
    assert last.startswith("not touched: ")
    assert "NATS at nats://nats.example:4222" in last
    assert "PostgreSQL at postgresql://db.example/x" in last
    assert "secret" not in result.output
    assert "not touched" not in terminal.run("nuke", "--yes-really").output


def test_up_names_the_settings_that_differ_and_not_their_values(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = terminal.create()
    assert changed_settings(terminal.paths, settings) == []
    monkeypatch.setenv("AGENTOS_OPENAI_API_KEY", "very-secret")
    monkeypatch.setenv("AGENTOS_REGION", "here")
    remember_start(terminal.paths, terminal.create())
    assert "very-secret" not in terminal.paths.marker.read_text()
    assert changed_settings(terminal.paths, terminal.create()) == []
    monkeypatch.delenv("AGENTOS_OPENAI_API_KEY")
    monkeypatch.setenv("AGENTOS_REGION", "there")
    monkeypatch.setenv("AGENTOS_MIN_FREE_MB", str(2**40))
    result = terminal.run("up", "--mode", "dev")
    said = next(line for line in result.output.splitlines() if "differ" in line)
    assert "AGENTOS_OPENAI_API_KEY (no longer set), AGENTOS_PROFILE (new)" in said
    assert "AGENTOS_REGION (changed)" in said
    assert "only flags are remembered" in said
    assert "there" not in said
    assert "differ" not in terminal.run("up", "--mode", "dev").output


def test_doctor_knows_what_its_own_node_left_behind(terminal: Terminal) -> None:
    terminal.run("up", "--mode", "dev")
    terminal.started[0].kill()
    terminal.started[0].wait(10)
    result = terminal.run("doctor", "--json")
    assert result.exit_code == 1
    checks = {check["name"]: check for check in json.loads(result.output)["checks"]}
    assert checks["ports"]["ok"]
    assert "left behind" in checks["ports"]["detail"]
    assert not checks["leftovers"]["ok"]
    where = f"--data-dir {terminal.paths.data}"
    assert f"agentos up {where}; " in checks["leftovers"]["next"]
    assert checks["leftovers"]["next"].endswith(f"agentos down {where}")


def test_a_token_carries_the_claims_of_its_role(terminal: Terminal) -> None:
    terminal.paths.create()
    terminal.paths.jwt_secret.write_text("s" * 48 + "\n")
    (terminal.paths.runtime).write_text('{"nats_url": "nats://x"}')
    result = terminal.run(
        "token", "--tenant", "tnt_demo", "--role", "tenant_admin", "--ttl", "60", "--json"
    )
    made = json.loads(result.output)
    claims = jwt.decode(made["token"], "s" * 48, ["HS256"], audience="agentos")
    assert claims["sub"] == "usr_tnt_demo_admin"
    assert claims["tenant_id"] == "tnt_demo"
    assert claims["roles"] == ["tenant_admin"]
    assert "agents:write" in claims["scope"].split(" ")
    assert claims["exp"] - claims["iat"] == 60
    assert claims["iss"] == "agentos-local"
    assert made["expires_at"].endswith("Z")
    narrow = terminal.run("token", "--role", "platform_admin", "--scopes", "runs:read,runs:create")
    payload = narrow.output.strip().split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
    assert (claims["sub"], claims["scope"]) == ("usr_platform_admin", "runs:read runs:create")
    assert terminal.run("token", "--role", "king").exit_code == 2


def test_config_shows_every_variable_and_masks_secrets(terminal: Terminal) -> None:
    terminal.environ["AGENTOS_JWT_SECRET"] = "very-secret"
    result = terminal.shell("config", "--json")
    rows = {row["name"]: row for row in json.loads(result.stdout)}
    assert rows["AGENTOS_JWT_SECRET"]["value"] == "********"
    assert rows["AGENTOS_DATA_DIR"]["source"] == "environment"
    assert rows["AGENTOS_REGION"]["source"] == "default"
    assert "very-secret" not in result.stdout + terminal.shell("config").stdout


def test_wrong_settings_are_wrong_usage(terminal: Terminal) -> None:
    terminal.environ["AGENTOS_REGIN"] = "x"
    result = terminal.shell("status")
    assert result.returncode == 2
    assert "did you mean AGENTOS_REGION?" in result.stderr
    assert terminal.shell("nonsense").returncode == 2


def test_doctor_names_the_next_step_of_what_failed(terminal: Terminal) -> None:
    good = json.loads(terminal.shell("doctor", "--json").stdout)["checks"]
    assert all(check["ok"] for check in good), good
    terminal.environ["AGENTOS_MIN_FREE_MB"] = str(2**40)
    result = terminal.shell("doctor")
    assert result.returncode == 1
    assert "next: make room" in result.stdout


def test_status_asks_a_nats_of_someone_else_too(
    terminal: Terminal, nats_server: EmbeddedNats
) -> None:
    terminal.environ["AGENTOS_NATS_URL"] = nats_server.url
    found = json.loads(terminal.shell("status", "--json").stdout)
    assert set(found["log"]) == {"last_sequence"}
    assert found["durability"].endswith("declared, not verified")
    terminal.environ["AGENTOS_NATS_URL"] = "nats://127.0.0.1:1"
    unreachable = terminal.shell("status", "--json")
    assert unreachable.returncode == 3
    assert json.loads(unreachable.stdout)["log"] == {"last_sequence": None}
