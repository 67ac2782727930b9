"""Two real nodes whose brokers are linked: events come over NATS, and over HTTP when it is cut."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from agentos.infra.federation.links import links_of
from agentos.infra.federation.node import load_peers
from agentos.infra.jetstream import api
from agentos.infra.jetstream.connection import bounded_close, connect
from agentos.infra.jetstream.links import url_of
from agentos.infra.nats_links import taker
from agentos.infra.nats_server import configure_nats
from agentos.infra.settings import Settings
from tests.federation.tcp_proxy import TcpProxy
from tests.infra.embedded import reserved_port
from tests.journeys.fed_nodes import FedMini

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.slow,
    pytest.mark.timeout(240),
]
TO_B = {"stack_id": "stk_b"}
SECRET = "a-secret-of-a-link-for-tests-only-0123456789"
DOORS = ("agent-orchestrator", "model-policy", "federation")


class LeafMini(FedMini):
    """A node whose broker is linked as its peers file says."""

    def __init__(self, stack_id: str, region: str) -> None:
        super().__init__(stack_id, region)
        self.listen = ""

    def environment(self) -> dict[str, str]:
        """Return the settings of this node."""
        return super().environment() | {"AGENTOS_FED_LEAF_LISTEN": self.listen}

    def knows(self, other: "LeafMini", **nats: Any) -> None:
        """Write the peers file, and link the broker as `agentos up` does."""
        file = self.directory / "link.secret"
        file.write_text(SECRET + "\n")
        urls = {
            f"{d}_base_url": f"http://127.0.0.1:{p}"
            for d, p in zip(DOORS, other.ports, strict=True)
        }
        entry = {"stack_id": other.stack_id, "endpoints": urls}
        entry["nats"] = {"credentials_file": str(file), **nats}
        self.peers_file.write_text(json.dumps({"peers": [entry]}))
        settings = Settings.load(self.environment())
        links = links_of(settings, *load_peers(settings))
        configure_nats(self.nats.server.home, sync_always=False, links=links)


class Pair:
    """A, which forwards, and B; `cable` is between their brokers."""

    def __init__(self) -> None:
        self.a, self.b = LeafMini("stk_a", "eu"), LeafMini("stk_b", "us")
        port = reserved_port()
        self.cable = TcpProxy(port)
        self.b.listen = f"127.0.0.1:{port}"

    async def begin(self) -> None:
        """Start both."""
        await self.cable.start()
        self.b.knows(self.a)
        self.a.knows(self.b, leaf_url=f"nats://127.0.0.1:{self.cable.port}")
        await self.b.begin()
        await self.a.begin()
        await self.events_by("leaf")

    async def finish(self) -> None:
        """End both."""
        await self.cable.close()
        for node in (self.a, self.b):
            await node.finish()

    async def peer(self) -> dict[str, Any]:
        """Return what A says of B."""
        found: dict[str, Any] = await asyncio.to_thread(self.a.command, "peers", "status")
        (peer,) = found["peers"]
        return dict(peer)

    async def events_by(self, way: str, within: float = 60.0) -> dict[str, Any]:
        """Wait until A says that events come this way."""
        async with asyncio.timeout(within):
            while (peer := await self.peer())["events_by"] != way:  # noqa: ASYNC110 - A tells
                await asyncio.sleep(0.2)
        return peer

    async def same(self, run_id: str) -> int:
        """Check that A has every event of a run on B, byte for byte, once; returns how many."""
        copied = await self.a.copied(run_id)
        assert copied == await self.b.own_lines(run_id)
        return len(copied)

    async def started(self, run_id: str, count: int = 3) -> None:
        """Wait until so many events of a run were copied."""
        async with asyncio.timeout(30):
            while (await self.a.copy(run_id))[0].copied < count:  # noqa: ASYNC110 - a log
                await asyncio.sleep(0.05)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def pair() -> AsyncIterator[Pair]:
    """The nodes."""
    opened = Pair()
    try:
        await opened.begin()
        yield opened
    finally:
        await opened.finish()


async def test_events_come_over_the_brokers(pair: Pair) -> None:
    before = (await pair.peer())["leaf"]["events"]
    run_id = await pair.a.forwarded(TO_B, "calculate 6 * 7")
    count = await pair.same(run_id)
    peer = await pair.peer()
    assert (peer["events_by"], peer["leaf"]["events"]) == ("leaf", before + count)
    assert peer["copies"]["gaps"] == []


async def test_only_the_runs_of_the_peer_are_on_its_broker(pair: Pair) -> None:
    a, b = pair.a, pair.b
    run_id = await a.forwarded(TO_B, "hello")
    status, own = await b.post_run("hello", "agt_demo")
    assert status == 201
    await pair.same(run_id)
    async with asyncio.timeout(20):
        while True:
            async with b.http.get(f"/v1/runs/{own['run']['run_id']}") as answer:
                if (await answer.json())["run"]["status"] == "completed":
                    break
            await asyncio.sleep(0.1)
    settings = Settings.load(a.environment())
    links = links_of(settings, *load_peers(settings))
    behind = await connect(url_of(a.nats.url, taker(links.links[0], "stk_a")), "test")
    info = await api.call(behind, "STREAM.INFO.EVENTS", {"subjects_filter": ">"})
    await bounded_close(behind)
    runs = {subject.split(".")[2] for subject in info["state"]["subjects"]}
    assert run_id in runs
    forwarded = {run["run_id"] for run in await a.runs()} | {run_id}
    assert runs <= forwarded
    assert own["run"]["run_id"] not in runs


async def test_a_cut_between_the_brokers_falls_over_to_http_and_back(pair: Pair) -> None:
    run_id = await pair.a.forwarded(TO_B, "sleep 6000\ncalculate 6 * 7")
    await pair.started(run_id)
    pair.cable.cut()
    peer = await pair.events_by("http")
    assert peer["leaf"]["state"] == "down"
    assert peer["leaf"]["fell_over"] >= 1
    assert peer["leaf"]["reason"]
    await pair.same(run_id)
    there = await pair.a.forwarded(TO_B, "calculate 6 * 7")
    await pair.same(there)  # begun and ended while the link is down
    pair.cable.heal()
    before = (await pair.events_by("leaf"))["leaf"]["events"]
    again = await pair.a.forwarded(TO_B, "calculate 6 * 7")
    count = await pair.same(again)
    peer = await pair.peer()
    assert peer["leaf"]["events"] == before + count
    assert peer["copies"]["gaps"] == []


async def test_kill_9_of_either_broker_loses_nothing(pair: Pair) -> None:
    for node in (pair.b, pair.a):
        run_id = await pair.a.forwarded(TO_B, "sleep 3000\ncalculate 6 * 7")
        await pair.started(run_id)
        await asyncio.to_thread(node.nats.restart)
        await pair.same(run_id)
        before = (await pair.events_by("leaf"))["leaf"]["events"]
        again = await pair.a.forwarded(TO_B, "calculate 6 * 7")
        count = await pair.same(again)
        assert (await pair.peer())["leaf"]["events"] == before + count


async def test_kill_9_of_either_gateway_loses_nothing(pair: Pair) -> None:
    for node in (pair.b, pair.a):
        run_id = await pair.a.forwarded(TO_B, "sleep 3000\ncalculate 6 * 7")
        await pair.started(run_id)
        await node.again("gateway")
        await pair.same(run_id)
        await pair.events_by("leaf")
    peer = await pair.peer()
    assert peer["copies"]["gaps"] == []
