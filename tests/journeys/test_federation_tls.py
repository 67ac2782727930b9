"""Two nodes that `agentos up` starts, with the certificates that `agentos peers certs` makes."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import aiohttp
import psutil
import pytest

from agentos.infra.federation.tls import own_context
from agentos.infra.settings import Settings
from tests.journeys.real_node import RealNode

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]
STACKS = ("stk_a", "stk_b")


@pytest.fixture
def nodes() -> Iterator[tuple[RealNode, RealNode]]:
    """Nodes A and B, up, with mTLS between them."""
    a, b = RealNode(), RealNode()
    try:
        made = a.command("peers", "certs", "--out", "certs", *STACKS, "--json")
        assert made.returncode == 0, made.stderr
        settings = json.loads(made.stdout)["nodes"]
        for node, other, own, peer in ((a, b, "stk_a", "stk_b"), (b, a, "stk_b", "stk_a")):
            file = node.directory / "peers.json"
            file.write_text(json.dumps({"peers": [entry(peer, other)]}))
            node.settings = {
                **settings[own],
                "AGENTOS_FED_REQUIRE_MTLS": "1",
                "AGENTOS_STACK_ID": own,
                "AGENTOS_PEERS_FILE": str(file),
            }
            node.up()
        yield a, b
    finally:
        a.remove()
        b.remove()


def entry(stack_id: str, node: RealNode) -> dict[str, Any]:
    """Return a node as its peer's file has it."""
    urls = {f"{name}_base_url": node.door(door) for name, door in DOORS}
    urls["federation_base_url"] = urls["federation_base_url"].replace("http:", "https:")
    return {"stack_id": stack_id, "endpoints": urls}


DOORS = (
    ("agent-orchestrator", "orchestrator"),
    ("model-policy", "model_policy"),
    ("federation", "federation"),
)


async def test_a_forward_over_mtls_and_the_commands(nodes: tuple[RealNode, RealNode]) -> None:
    a, b = nodes
    status = a.status()
    assert status["state"] == "ready"
    assert status["endpoints"]["federation"].startswith("https://")
    assert status["federation"] == {
        "stack_id": "stk_a",
        "peers": 1,
        "security": "secured",
        "unsecured_peers": [],
    }
    async with asyncio.timeout(30):
        while (found := listed(a))["stk_b"]["state"] != "live":  # noqa: ASYNC110 - polls
            await asyncio.sleep(0.2)
    assert found["stk_b"]["security"] == "mtls"
    body = {
        "forward": {
            "target_selector": {"stack_id": "stk_b"},
            "run_request": {
                "agent_id": "agt_demo",
                "input": {"type": "text", "text": "calculate 6 * 7"},
            },
        }
    }
    tls = own_context(Settings.load({n: v for n, v in a.settings.items() if "_FED_" in n}))
    assert tls is not None
    headers = {"Authorization": f"Bearer {a.token('tnt_demo')}"}
    async with aiohttp.ClientSession(headers=headers) as http:
        url = status["endpoints"]["federation"] + "/v1/federation/runs:forward"
        async with http.post(url, json=body, ssl=tls) as answer:
            assert answer.status == 200, await answer.text()
            run_id = (await answer.json())["forwarded"]["remote_run_id"]
    async with a.client() as here:
        async with asyncio.timeout(30):
            while True:
                _, answer_body = await here.ask("GET", f"/v1/runs/{run_id}")
                if answer_body["run"]["status"] == "completed":
                    break
                await asyncio.sleep(0.1)
    assert "42" in answer_body["run"]["output"]["text"]
    async with b.client() as there:
        assert (await there.wait(run_id))["status"] == "completed"
    rotated = a.command("peers", "rotate", "--json")
    assert rotated.returncode == 0, rotated.stderr
    assert len(json.loads(rotated.stdout)["published"]) == 2
    shown = a.command("peers", "status")
    assert shown.returncode == 0, shown.stderr
    assert "stk_b" in shown.stdout
    assert "UNSECURED" not in shown.stdout
    refused = a.command("peers", "remove", "stk_b")
    assert refused.returncode == 1
    assert "not_found" in refused.stderr


def listed(node: RealNode) -> dict[str, Any]:
    """Return the node's peers by their ids."""
    done = node.command("peers", "list", "--json")
    assert done.returncode == 0, done.stderr
    return {peer["stack_id"]: peer for peer in json.loads(done.stdout)["peers"]}


def test_a_bad_peers_file_stops_the_start_with_line_and_field() -> None:
    node = RealNode()
    try:
        file = node.directory / "peers.json"
        file.write_text('{"peers": [\n  {"stack_id": "b"}\n]}')
        node.settings = {"AGENTOS_PEERS_FILE": str(file)}
        done = node.command("up", "--mode", "dev")
        assert done.returncode == 1
        assert "peers.json:2: peers.0.stack_id" in done.stdout + done.stderr
        psutil.wait_procs(node.own_processes(), timeout=20)  # the supervisor is just ending
        assert not node.own_processes()
    finally:
        node.remove()


def test_prod_takes_no_peer_without_certificates() -> None:
    node = RealNode(AGENTOS_PROFILE="prod")
    try:
        file = node.directory / "peers.json"
        file.write_text('{"peers": []}')
        node.settings = {"AGENTOS_PEERS_FILE": str(file), "AGENTOS_PROFILE": "prod"}
        done = node.command("up", "--mode", "prod")
        assert done.returncode == 2
        text = done.stdout + done.stderr
        assert "AGENTOS_FED_REQUIRE_MTLS must be 1" in text
        assert "AGENTOS_FED_CERT must name a readable file" in text
    finally:
        node.remove()
