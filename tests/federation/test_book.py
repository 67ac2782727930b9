"""The registry: who answers, what they can do, who is chosen; seen and lost are in the log."""

import asyncio
from typing import Any

from agentos.domain.federation.peer import Peer, peer_ref
from agentos.infra.memory.log import MemoryLog
from tests.federation.fake_peer import FakePeer, run_of
from tests.federation.node import FedNode
from tests.federation.peering import info
from tests.gateways.conftest import bearer, eventually

PLATFORM = bearer(roles=["platform_admin"], sub="usr_admin")
ABLE: dict[str, Any] = {
    "supports": {"runs_forward": True, "events_stream": True},
    "models": {"tiers": ["fast", "premium"]},
    "features": ["runs.forward"],
    "protocol": "1.7",
}


async def written(node: FedNode, stack_id: str) -> list[str]:
    """Return the types of what was written of a peer."""
    records = await MemoryLog.read(node.door.log, peer_ref(stack_id))
    return [name.rpartition(".")[2] for record in records for name in record.types]


async def test_seen_lost_and_seen_again() -> None:
    fake = FakePeer()
    fake.capabilities = ABLE
    async with fake.serving() as entry:
        node = await FedNode("stk_a").open([entry])
        try:
            await _until(node, "stk_fake", "live")
            found = (await node.peers_now())["stk_fake"]
            assert found["negotiated_version"] == "1.0"
            assert found["last_seen"] is not None
            fake.is_up = False
            await _until(node, "stk_fake", "lost")
            assert "503" in (await node.peers_now())["stk_fake"]["reason"]
            fake.is_up = True
            await _until(node, "stk_fake", "live")
            async with asyncio.timeout(10):
                while await written(node, "stk_fake") != ["seen", "lost", "seen"]:  # noqa: ASYNC110 - a log has no event
                    await asyncio.sleep(0.02)
            peer = Peer(peer_ref("stk_fake"))
            peer.fold(await MemoryLog.read(node.door.log, peer.ref))
            assert peer.state == "live"
        finally:
            await node.close()


async def _until(node: FedNode, stack_id: str, state: str) -> None:
    federation = node.door.gateway._federation
    assert federation is not None
    federation.book._poll_s = 0.02

    def holds() -> bool:
        known = federation.book.get(stack_id)
        assert known is not None
        if known.state != state:
            federation.book._poll_anew(stack_id)
        return known.state == state

    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 - polls are what is waited for
            await asyncio.sleep(0.2)


async def test_a_peer_of_an_older_capability_set(node: FedNode, fake: FakePeer) -> None:
    """It answers neither question: it takes runs, and whatever else is asked for it lacks."""
    assert (await node.forward({"stack_id": "stk_fake"}))[0] == 200
    found = (await node.peers_now())["stk_fake"]
    assert (found["state"], found["negotiated_version"]) == ("live", "0")
    selector = {"stack_id": "stk_fake", "required_capabilities": ["events.ingest"]}
    status, body = await node.forward(selector)
    assert (status, body["error"]["details"]["missing"]) == (409, ["events.ingest"])
    fake.answers = [(201, run_of("run_2"))]
    selector["required_capabilities"] = ["events_stream", "runs.forward"]
    assert (await node.forward(selector))[0] == 200


NONSENSE: list[Any] = [5, [], "x", {"supports": 5}, {"features": [1]}, {"protocol": 1}]


async def test_what_a_peer_says_of_itself_is_checked(node: FedNode, fake: FakePeer) -> None:
    federation = node.door.gateway._federation
    assert federation is not None
    known = federation.book.get("stk_fake")
    assert known is not None
    for said in NONSENSE:
        fake.capabilities = said
        await federation.book.refresh(known)
        assert known.failures > 0, said
        fake.capabilities = ABLE
        await federation.book.refresh(known)
        assert known.failures == 0
    urls = ["http://x.example"] * 3
    fake.info = info("stk_somebody_else", urls).view()
    await federation.book.refresh(known)
    assert "stk_somebody_else" in known.reason
    fake.info = info("stk_fake", urls).view()
    await federation.book.refresh(known)
    assert known.reason == ""


async def test_the_least_loaded_that_fits_is_chosen() -> None:
    busy, idle, other = FakePeer(), FakePeer(), FakePeer()
    busy.capabilities = ABLE | {"load": {"active_runs": 9}}
    idle.capabilities = ABLE | {"load": {"active_runs": 2}}
    other.capabilities = ABLE
    async with (
        busy.serving("stk_busy", region="eu") as first,
        idle.serving("stk_idle", region="eu") as second,
        other.serving("stk_other", region="us") as third,
    ):
        node = await FedNode("stk_a").open([first, second, third])
        try:
            await eventually(lambda: node.live() == 3)
            chosen = []
            for at in range(9):
                for fake in (busy, idle):
                    fake.answers = [(201, run_of(f"run_{at}{id(fake)}"))]
                status, body = await node.forward({"region": "eu"})
                assert status == 200, body
                chosen.append(body["forwarded"]["remote_stack_id"])
            # until the peers say how busy they are, what was sent there counts too
            assert chosen[:7] == ["stk_idle"] * 7
            assert not other.created
        finally:
            await node.close()


async def test_peers_added_and_removed_at_runtime() -> None:
    fake = FakePeer()
    async with fake.serving() as entry:
        node = await FedNode("stk_a").open()
        try:
            path = "/v1/federation/peers/stk_fake"
            body = entry.model_dump(mode="json", by_alias=True)
            status, answer = await node.call("PUT", path, json=body, headers=PLATFORM)
            assert (status, answer["peer"]["source"]) == (200, "added")
            assert (await node.forward({"stack_id": "stk_fake"}))[0] == 200
            await node.restart()
            await eventually(lambda: node.live() == 1)
            wrong = body | {"stack_id": "stk_a"}
            status, _ = await node.call("PUT", path, json=wrong, headers=PLATFORM)
            assert status == 400
            own = "/v1/federation/peers/stk_a"
            status, _ = await node.call("PUT", own, json=wrong, headers=PLATFORM)
            assert status == 409
            assert (await node.call("PUT", path, json=body, headers=bearer()))[0] == 403
            assert (await node.call("DELETE", path, headers=PLATFORM))[0] == 200
            assert (await node.call("DELETE", path, headers=PLATFORM))[0] == 404
            assert await node.peers_now() == {}
            assert [n for n in await written(node, "stk_fake") if n not in ("seen", "lost")] == [
                "added",
                "removed",
            ]
        finally:
            await node.close()


async def test_the_file_goes_before_what_is_added(node: FedNode, fake_entry: Any) -> None:
    path = "/v1/federation/peers/stk_fake"
    body = fake_entry.model_dump(mode="json", by_alias=True)
    status, answer = await node.call("PUT", path, json=body, headers=PLATFORM)
    assert (status, answer["error"]["code"]) == (409, "conflict")
    assert (await node.call("DELETE", path, headers=PLATFORM))[0] == 404


async def test_what_a_node_says_of_itself(node: FedNode) -> None:
    for path in ("/v1/federation/peer", "/v1/peer/info"):
        status, body = await node.call("GET", path)
        assert status == 200
        peer = body["peer"]
        assert (peer["stack_id"], peer["api_versions"]) == ("stk_a", ["v1"])
        assert set(peer["endpoints"]) == {
            "agent-orchestrator_base_url",
            "model-policy_base_url",
            "federation_base_url",
        }
        assert set(peer["build"]) == {"version", "git_sha", "timestamp"}
    for path in ("/v1/federation/peer/capabilities", "/v1/peer/capabilities"):
        status, body = await node.call("GET", path)
        found = body["capabilities"]
        assert found["protocol"] == "1.0"
        assert found["features"] == ["runs.forward", "events.ingest", "events.sse_proxy"]
        assert set(found["supports"]) == {
            "runs_forward",
            "events_stream",
            "tenant_isolation",
            "tool_hosting",
        }
        assert set(found["limits"]) == {"max_concurrent_runs", "max_event_streams"}
        assert found["models"] == {
            "tiers": ["fast", "balanced", "premium"],  # all end at the builtin model
            "backends": ["builtin"],
            "max_context_tokens": 1_000_000,
        }
        assert (await node.call("GET", path, headers={}))[0] == 401
    status, body = await node.call("GET", "/v1/federation/jwks.json", headers={})
    assert (status, body["keys"][0]["crv"]) == (200, "Ed25519")
    assert "d" not in body["keys"][0]


async def test_the_published_catalog_is_what_a_node_tells(node: FedNode, fake: FakePeer) -> None:
    catalog = {
        "backends": [{"name": "acme", "kind": "openai", "base_url": "http://127.0.0.1:1/v1"}],
        "models": [{"model_id": "acme/m", "tier": "fast", "context_window_tokens": 32_000}],
        "routes": [{"name": "tier:fast", "chain": [{"targets": [{"model_id": "acme/m"}]}]}],
    }
    path, sent = "/v1/admin/models", {"document": catalog}
    status, body = await node.call("PUT", path, door=0, json=sent, headers=PLATFORM)
    assert status == 200, body
    status, body = await node.call("GET", "/v1/federation/peer/capabilities")
    assert body["capabilities"]["models"] == {
        "tiers": ["fast"],
        "backends": ["acme"],
        "max_context_tokens": 32_000,
    }
    status, body = await node.forward({"stack_id": "stk_a", "preferred_model_tier": "premium"})
    assert (status, body["error"]["details"]["missing"]) == (409, ["model tier premium"])
    status, body = await node.forward({"preferred_model_tier": "fast"})
    assert (status, body["forwarded"]["remote_stack_id"]) == (200, "stk_a")
    assert not fake.created
