"""`agentos peers`, as a user calls it."""

import asyncio
import json
import os
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from typer.testing import CliRunner, Result

from agentos.cli.main import app
from tests.federation.fake_peer import RUN, FakePeer, event, final, frame
from tests.federation.memory_links import MemoryInbox
from tests.federation.node import FedNode
from tests.gateways.conftest import eventually, token

Cli = Callable[..., Awaitable[Result]]
ENTRY: dict[str, Any] = {
    "stack_id": "stk_c",
    "endpoints": {"agent-orchestrator_base_url": "http://127.0.0.1:9"},
}


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A terminal without settings of a node, in an empty directory."""
    for name in list(os.environ):
        if name.startswith("AGENTOS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AGENTOS_DATA_DIR", str(tmp_path / "none"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def fake() -> FakePeer:
    """The node's peer."""
    return FakePeer()


@pytest.fixture
async def node(fake: FakePeer) -> AsyncIterator[FedNode]:
    """A node with one peer in its file, linked with it."""
    async with fake.serving() as entry:
        opened = await FedNode("stk_a", inboxes=(MemoryInbox(),)).open([entry])
        yield opened
        await opened.close()


@pytest.fixture
async def cli(plain: Path, node: FedNode, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """A platform admin's terminal, far from the node: `await cli("peers", "list")`."""
    admin = token(roles=["platform_admin"], sub="usr_platform_admin")
    monkeypatch.setenv("AGENTOS_TOKEN", admin)

    async def run(*arguments: str) -> Result:
        given = [*arguments, "--url", node.federation]
        return await asyncio.to_thread(CliRunner().invoke, app, given)

    return run


async def read(cli: Cli, *arguments: str) -> Any:
    """Return what a command printed as JSON."""
    result = await cli(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


async def known(cli: Cli) -> dict[str, Any]:
    """Return the peers by their ids."""
    return {peer["stack_id"]: peer for peer in (await read(cli, "peers", "list"))["peers"]}


async def test_a_peer_is_added_changed_and_removed(cli: Cli, plain: Path) -> None:
    made = await read(cli, "peers", "add", json.dumps(ENTRY))
    assert (made["peer"]["stack_id"], made["peer"]["source"]) == ("stk_c", "added")
    assert (await known(cli))["stk_c"]["tenants"] == ["*"]
    (plain / "entry.json").write_text(json.dumps(ENTRY | {"tenants": ["tnt_a"]}))
    shown = await cli("peers", "add", "@entry.json")
    assert shown.exit_code == 0
    assert "tnt_a" in shown.stdout
    assert (await known(cli))["stk_c"]["tenants"] == ["tnt_a"]
    assert "stk_c" in (await cli("peers", "list")).stdout
    assert await read(cli, "peers", "remove", "stk_c") != {}
    assert "stk_c" not in await known(cli)
    again = await cli("peers", "remove", "stk_c")
    assert again.exit_code == 1
    assert again.stderr == "error: not_found: no such peer was added\n"
    await cli("peers", "add", json.dumps(ENTRY))
    assert (await cli("peers", "remove", "stk_c")).stdout == "stk_c is no peer any more\n"


@pytest.mark.parametrize(
    ("entry", "code", "says"),
    [
        ("{", 2, "ENTRY"),
        ("[]", 2, "ENTRY"),
        ("{}", 2, "no stack_id"),
        ("@nowhere.json", 2, "nowhere.json"),
        ('{"stack_id": "c"}', 1, "invalid_request"),
        (json.dumps(ENTRY | {"stack_id": "stk_a"}), 1, "no peer of its own"),
        (json.dumps(ENTRY | {"stack_id": "stk_fake"}), 1, "peers file"),
        (json.dumps(ENTRY | {"nats": {"credentials_file": "x"}}), 1, "peers file"),
    ],
)
async def test_what_cannot_be_added(cli: Cli, entry: str, code: int, says: str) -> None:
    before = await known(cli)
    result = await cli("peers", "add", entry)
    assert result.exit_code == code, result.output
    assert says in result.stderr
    assert (await known(cli)).keys() == before.keys()


async def test_who_may_not_and_who_is_not_there(
    cli: Cli, plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENTOS_TOKEN", token())
    refused = await cli("peers", "status")
    assert refused.exit_code == 1
    assert "forbidden" in refused.stderr
    away = await asyncio.to_thread(
        CliRunner().invoke, app, ["peers", "list", "--url", "http://127.0.0.1:9"]
    )
    assert away.exit_code == 3
    assert "cannot be reached" in away.stderr
    assert (await cli("peers")).exit_code == 2


async def test_status_says_what_was_copied_how_and_what_is_unsecured(
    cli: Cli, node: FedNode, fake: FakePeer
) -> None:
    events = [event(1), final(2)]
    fake.streams = lambda after: [frame(e) for e in events if e["event"]["sequence"] > after]
    federation = node.door.gateway._federation
    assert federation is not None
    await eventually(lambda: federation.links["stk_fake"].is_live)
    found = await read(cli, "peers", "status")
    (peer,) = found["peers"]
    assert (found["stack_id"], found["unsecured_peers"]) == ("stk_a", ["stk_fake"])
    assert (peer["events_by"], peer["leaf"]["state"]) == ("leaf", "live")
    shown = (await cli("peers", "status")).stdout
    assert "UNSECURED, no keys or certificates: stk_fake" in shown
    assert "stk_a: 0 copies in progress" in shown
    assert "events by" in shown
    inbox = node.options["inboxes"][0]
    inbox.why = "the cable is out"
    await node.forward({"stack_id": "stk_fake"})
    await node.wait_copied(RUN, 2)
    await eventually(lambda: not federation.links["stk_fake"].is_live)
    shown = (await cli("peers", "status")).stdout
    assert "link down: stk_fake since " in shown
    assert "the cable is out" in shown


def invoke(*arguments: str) -> Result:
    """Run a command that needs no node."""
    return CliRunner().invoke(app, list(arguments))


def test_certificates_say_who_a_node_is(plain: Path) -> None:
    made = invoke(
        "peers", "certs", "--out", "certs", "stk_a", "stk_b", "--host", "b.example", "--json"
    )
    assert made.exit_code == 0, made.output
    nodes = json.loads(made.stdout)["nodes"]
    assert set(nodes) == {"stk_a", "stk_b"}
    for stack_id, settings in nodes.items():
        certificate = x509.load_pem_x509_certificate(
            Path(settings["AGENTOS_FED_CERT"]).read_bytes()
        )
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        found = set(names.get_values_for_type(x509.DNSName))
        assert {stack_id, "b.example"} <= found
        assert stat.S_IMODE(Path(settings["AGENTOS_FED_KEY"]).stat().st_mode) == 0o600
    authority = Path(nodes["stk_a"]["AGENTOS_FED_CA_CERT"]).read_bytes()
    lines = invoke("peers", "certs", "--out", "certs", "stk_c").stdout.splitlines()
    assert lines[0] == "# stk_c"
    assert lines[1] == f"AGENTOS_FED_CA_CERT={plain}/certs/ca.pem"
    assert (plain / "certs" / "ca.pem").read_bytes() == authority  # made once


def test_certificates_that_cannot_be_made(plain: Path) -> None:
    wrong = invoke("peers", "certs", "--out", "certs", "node-a")
    assert (wrong.exit_code, "stk_" in wrong.stderr) == (2, True)
    assert not (plain / "certs").exists()
    (plain / "file").write_text("")
    blocked = invoke("peers", "certs", "--out", "file", "stk_a")
    assert blocked.exit_code == 2
    assert "file" in blocked.stderr
    assert invoke("peers", "certs", "stk_a").exit_code == 2
    assert invoke("peers", "certs", "--out", "c", "stk_a", "--days", "0").exit_code == 2


def test_keys_are_rotated(plain: Path) -> None:
    first = json.loads(invoke("peers", "rotate", "--json").stdout)
    second = json.loads(invoke("peers", "rotate", "--json").stdout)
    assert first["kid"] != second["kid"]
    assert second["published"][0] == second["kid"] or second["kid"] in second["published"]
    assert first["kid"] in second["published"]
    assert "signs from now on" in invoke("peers", "rotate").stdout


def test_the_secret_of_a_link_is_private_and_never_written_over(plain: Path) -> None:
    made = invoke("peers", "secret", "link.secret", "--json")
    assert json.loads(made.stdout) == {"credentials_file": str(plain / "link.secret")}
    file = plain / "link.secret"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    text = file.read_text()
    assert len(text.strip()) >= 32
    assert text.strip() not in made.output
    again = invoke("peers", "secret", "link.secret")
    assert again.exit_code == 2
    assert file.read_text() == text


def test_what_a_broker_of_ones_own_needs(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    invoke("peers", "secret", "link.secret")
    nats = {"leaf_url": "nats://b.example:50090", "credentials_file": str(plain / "link.secret")}
    (plain / "peers.json").write_text(json.dumps({"peers": [ENTRY | {"nats": nats}]}))
    monkeypatch.setenv("AGENTOS_PEERS_FILE", str(plain / "peers.json"))
    monkeypatch.setenv("AGENTOS_STACK_ID", "stk_a")
    shown = invoke("peers", "links")
    assert shown.exit_code == 0, shown.output
    assert 'domain: "stk_a"' in shown.stdout
    assert "FROM_stk_c" in shown.stdout
    assert "b.example:50090" in shown.stdout
    (plain / "link.secret").write_text("short")
    off = invoke("peers", "links")
    assert (off.exit_code, "credentials_file" in off.stderr) == (2, True)
    (plain / "peers.json").write_text('{"peers": []}')
    assert invoke("peers", "links").exit_code == 2
