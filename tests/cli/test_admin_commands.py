"""`agentos tenants`, `keys` and `init`, as a user calls them."""

import asyncio
import json
import os
import shutil
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from agentos.cli.api_client import connect
from agentos.cli.main import app
from agentos.infra.jetstream.connection import bounded_close
from agentos.infra.jetstream.connection import connect as connect_nats
from agentos.infra.jetstream.log import JetStreamLog
from agentos.infra.node.files import read_object, write_object
from tests.gateways.conftest import Door, token
from tests.gateways.test_admin import HandledNode
from tests.infra.embedded import EmbeddedNats, short_directory

Cli = Callable[..., Awaitable[Result]]


@pytest.fixture
async def cli(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[Cli]:
    """A remote client's terminal: `await cli("tenants", "list")`."""
    door = Door()
    await door.start()
    node = HandledNode(door)
    await node.answer()
    for name in list(os.environ):
        if name.startswith("AGENTOS_"):
            monkeypatch.delenv(name)
    admin = token(roles=["platform_admin"], sub="usr_platform_admin", tenant_id="tnt_root")
    monkeypatch.setenv("AGENTOS_TOKEN", admin)
    monkeypatch.setenv("AGENTOS_DATA_DIR", str(tmp_path / "none"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)

    async def run(*arguments: str, typed: str | None = None) -> Result:
        given = [*arguments, "--url", door.urls[0]]
        return await asyncio.to_thread(CliRunner().invoke, app, given, input=typed)

    yield run
    await node.close()
    await door.close()


async def read(cli: Cli, *arguments: str) -> Any:
    """Return what a command printed as JSON."""
    result = await cli(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


async def test_a_tenant_by_hand(cli: Cli) -> None:
    quotas = '{"runs": {"run_create_qps": 2}}'
    made = await read(
        cli, "tenants", "create", "tnt_a", "--name", "A", "--quotas", quotas, "--tag", "x"
    )
    assert made["tenant"]["metadata"]["tags"] == ["x"]
    changed = await read(cli, "tenants", "update", "tnt_a", "--max-concurrent-runs", "3")
    assert changed["tenant"]["quotas"]["runs"]["max_concurrent_runs"] == 3
    assert changed["tenant"]["quotas"]["runs"]["run_create_qps"] == 2
    assert (await read(cli, "tenants", "show", "tnt_a"))["tenant"] == changed["tenant"]
    (listed,) = (await read(cli, "tenants", "list"))["tenants"]
    assert listed == changed["tenant"]
    assert "tnt_a" in (await cli("tenants", "list")).stdout
    assert "quotas.runs.max_concurrent_runs" in (await cli("tenants", "show", "tnt_a")).stdout
    usage = await read(cli, "tenants", "usage", "tnt_a")
    assert usage["usage"][0]["runs_limit"] == 3
    assert "runs_active" in (await cli("tenants", "usage", "tnt_a")).stdout
    assert (await cli("tenants", "delete", "tnt_a", "--yes-really")).exit_code == 1
    disabled = await read(cli, "tenants", "disable", "tnt_a", "--runs", "cancel")
    assert disabled["tenant"]["status"] == "disabled"
    assert (await read(cli, "tenants", "enable", "tnt_a"))["tenant"]["status"] == "active"
    await cli("tenants", "disable", "tnt_a")
    refused = await cli("tenants", "delete", "tnt_a", typed="tnt_b\n")
    assert (refused.exit_code, "nothing was done" in refused.stderr) == (2, True)
    assert (await cli("tenants", "delete", "tnt_a", typed="tnt_a\n")).exit_code == 0
    gone = await cli("tenants", "show", "tnt_a")
    assert gone.exit_code == 1
    assert gone.stderr == "error: not_found: no such tenant\n"


async def test_a_key_by_hand(cli: Cli) -> None:
    await cli("tenants", "create", "tnt_a")
    issue = ("keys", "issue", "--tenant", "tnt_a", "--role", "tenant_user", "--scopes", "runs:read")
    made = await read(cli, *issue, "--principal", "usr_x", "--ttl", "20000000", "--name", "laptop")
    key = made["key"]
    assert key["principal"] == {"principal_id": "usr_x", "principal_type": "user"}
    assert (key["scopes"], "expires_at" in key) == (["runs:read"], True)
    again = await read(cli, "keys", "rotate", key["key_id"], "--tenant", "tnt_a", "--overlap", "0")
    assert again["secret"] != made["secret"]
    (listed,) = (await read(cli, "keys", "list", "--tenant", "tnt_a"))["keys"]
    assert listed["key_id"] == key["key_id"]
    shown = await cli("keys", "list", "--tenant", "tnt_a")
    assert "laptop" in shown.stdout
    assert again["secret"] not in shown.stdout
    revoked = await read(cli, "keys", "revoke", key["key_id"], "--tenant", "tnt_a")
    assert revoked["key"]["status"] == "revoked"
    plain = await cli("keys", "issue", "--tenant", "tnt_a")
    assert "aos_" in plain.stdout.splitlines()[-1]
    assert (await cli("keys", "issue", "--tenant", "tnt_a", "--kind", "subscriber")).exit_code == 1


async def test_exit_codes(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = (
        ("tenants", "update", "tnt_a"),
        ("tenants", "create", "tnt_a", "--quotas", "[]"),
        ("tenants", "create", "tnt_a", "--quotas", "{"),
        ("tenants", "create", "tnt_a", "--quotas", "@none"),
        ("tenants", "disable", "tnt_a", "--runs", "stop"),
        ("tenants", "create"),
    )
    for arguments in wrong:
        assert (await cli(*arguments)).exit_code == 2, arguments
    quotas = '{"runs": {"max_concurrent_runs": -1}}'
    told = await cli("tenants", "create", "tnt_a", "--quotas", quotas)
    assert (told.exit_code, "body.quotas.runs.max_concurrent_runs" in told.stderr) == (1, True)
    nobody = ("tenants", "list", "--url")
    result = await asyncio.to_thread(CliRunner().invoke, app, [*nobody, "http://127.0.0.1:1"])
    assert result.exit_code == 3
    result = await asyncio.to_thread(CliRunner().invoke, app, [*nobody, "ftp://x"])
    assert result.exit_code == 2
    monkeypatch.delenv("AGENTOS_TOKEN")
    assert (await cli("tenants", "list")).exit_code == 2
    monkeypatch.setenv("AGENTOS_TOKEN", token())
    assert "forbidden" in (await cli("tenants", "list")).stderr


@pytest.fixture
def prod(own_nats_server: EmbeddedNats, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The directory of a `prod` node with a broker and nothing else."""
    root = short_directory()
    for name in list(os.environ):
        if name.startswith("AGENTOS_"):
            monkeypatch.delenv(name)
    (root / "nats").write_text(own_nats_server.url)
    (root / "jwt").write_text("s" * 40)
    for name, value in {
        "AGENTOS_DATA_DIR": str(root / "data"),
        "AGENTOS_NATS_URL_FILE": str(root / "nats"),
        "AGENTOS_POSTGRES_DSN": "postgresql://127.0.0.1:1/none",
        "AGENTOS_JWT_SECRET_FILE": str(root / "jwt"),
        "AGENTOS_METRICS_REQUIRE_AUTH": "1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(root)
    yield root
    shutil.rmtree(root)


def init(*arguments: str, tenant: str = "tnt_x") -> Result:
    """Call `agentos init`."""
    given = ["init", "--mode", "prod", "--tenant", tenant, "--admin", "usr_y", *arguments]
    return CliRunner().invoke(app, given)


def kinds(url: str) -> list[str]:
    """Return the types of all tenant, key and audit events in the log."""

    async def ask() -> list[str]:
        connection = await connect_nats(url, "test")
        try:
            log = JetStreamLog(connection)
            found = [
                record
                for kind in ("tenant", "key", "audit")
                for last in await log.last_of_kind(kind)
                for record in await log.read(last.ref)
            ]
        finally:
            await bounded_close(connection)
        return [t.removeprefix("agentos.") for record in found for t in record.types]

    return asyncio.run(ask())


def test_init_makes_the_first_admin_once(prod: Path, own_nats_server: EmbeddedNats) -> None:
    result = init("--json")
    assert result.exit_code == 0, result.output
    path = Path(json.loads(result.stdout)["key_file"])
    content = read_object(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert content["tenant_id"] == "tnt_x"
    assert content["keys"]["tenant_admin"]["principal_id"] == "usr_y"
    assert content["keys"]["platform_admin"]["principal_id"] == "usr_platform_admin"
    secret = content["keys"]["platform_admin"]["secret"]
    assert secret not in result.stdout
    made = ["tenant.created", "key.issued", "key.issued"]  # the auditor records them later
    assert kinds(own_nats_server.url) == made
    again = init()
    assert (again.exit_code, "tnt_x" in again.stderr) == (1, True)
    other = init("--key-file", str(prod / "other.json"), tenant="tnt_z")
    assert (other.exit_code, "tnt_x" in other.stderr) == (1, True)
    assert not (prod / "other.json").exists()
    assert kinds(own_nats_server.url) == made
    os.environ["AGENTOS_PROFILE"] = "prod"
    try:
        assert connect(None, None).token == secret
    finally:
        del os.environ["AGENTOS_PROFILE"]


def test_init_that_lost_its_answer_is_finished(prod: Path, own_nats_server: EmbeddedNats) -> None:
    path = prod / "keys.json"
    assert init("--key-file", str(path)).exit_code == 0
    first = read_object(path)
    write_object(path, {"status": "pending", "tenant_id": "tnt_x"})  # as a crash leaves it
    assert init("--key-file", str(path), tenant="tnt_z").exit_code == 1
    assert init("--key-file", str(path)).exit_code == 0
    second = read_object(path)
    assert second["status"] == "ready"
    assert second["keys"]["platform_admin"]["key_id"] != first["keys"]["platform_admin"]["key_id"]
    found = kinds(own_nats_server.url)
    assert [found.count(f"key.{verb}") for verb in ("issued", "revoked")] == [4, 2]
    assert found.count("tenant.created") == 1


def test_init_says_what_does_not_fit(prod: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert init(tenant="x").exit_code == 2
    assert init("--admin", "").exit_code == 2
    assert init("--mode", "dev").exit_code == 2
    (prod / "mine").write_text("something else")
    result = init("--key-file", str(prod / "mine"))
    assert (result.exit_code, (prod / "mine").read_text()) == (1, "something else")
    assert init("--key-file", str(prod / "no" / "where")).exit_code == 1
    (prod / "nats").write_text("nats://127.0.0.1:1")
    assert init().exit_code == 3
