"""Nodes in one process: real doors and real HTTP between them, logs and executors in memory."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from agentos.domain.federation.peer import PeerEntry
from agentos.domain.federation.remote import RemoteRun, copied_lines, remote_ref
from agentos.domain.run.approving import ask_approval
from agentos.domain.run.events import Output
from agentos.domain.run.run import run_ref
from agentos.federation.parts import Peering
from agentos.infra.memory.log import MemoryLog
from tests.domain.given import ASKS, answer, moment
from tests.federation.peering import entry, peering
from tests.gateways.conftest import Door, bearer
from tests.gateways.test_admin import HandledNode

TENANT = "tnt_a"
AGENT = "agt_a"
PLATFORM = {"roles": ["platform_admin"], "sub": "usr_platform_admin"}


class FedNode:
    """One node: its three doors and its handlers; a test plays the executor."""

    def __init__(self, stack_id: str, *, peers: Sequence["FedNode"] = (), **options: Any) -> None:
        self.stack_id = stack_id
        self.peers = list(peers)
        self.options = options
        self.entries: list[PeerEntry] = []
        self.tenants: Sequence[str] = options.pop("tenants", (TENANT,))
        self.keep: dict[str, Any] = options.pop("keep", {})
        self.door = self._new_door()
        self.handled: HandledNode

    def _new_door(self) -> Door:
        return Door(peering=self._peering, tenants=(), **self.keep)

    def _peering(self, urls: Sequence[str]) -> Peering:
        return peering(self.stack_id, urls, self.entries, **self.options)

    async def open(self, entries: Sequence[PeerEntry] = ()) -> "FedNode":
        """Open the doors, with these peers."""
        self.entries = list(entries)
        await self.door.start()
        self.handled = HandledNode(self.door)
        self.handled.clock = SystemNow()  # type: ignore[assignment]
        await self.handled.answer()
        for tenant_id in self.tenants:
            await self.handled.tenant(tenant_id, max_concurrent_runs=10_000)
        return self

    async def restart(self) -> None:
        """End the gateway process and begin another one on the same ports and log."""
        log, ports, bus = self.door.log, self.door.ports, self.door.bus
        await self.door.close()
        self.door = self._new_door()
        self.door.log, self.door.ports, self.door.bus = log, ports, bus
        await self.door.start()

    async def close(self) -> None:
        """Close everything."""
        await self.door.close()
        await self.handled.close()

    def entry(self, **more: Any) -> PeerEntry:
        """Return this node as a peer knows it."""
        return entry(self.stack_id, self.door.urls, **more)

    @property
    def federation(self) -> str:
        """The federation door's URL."""
        return self.door.urls[2]

    async def call(
        self, method: str, path: str, *, door: int = 2, headers: Any = None, **more: Any
    ) -> tuple[int, dict[str, Any]]:
        """Make a call as a user of the tenant, at the federation door unless another is named."""
        sent = bearer() if headers is None else headers
        async with (
            aiohttp.ClientSession() as http,
            http.request(method, self.door.urls[door] + path, headers=sent, **more) as answer,
        ):
            raw = await answer.read()
            return answer.status, await answer.json() if raw else {}

    async def forward(
        self, selector: dict[str, Any], *, key: str | None = None, text: str = "hi", **more: Any
    ) -> tuple[int, dict[str, Any]]:
        """Forward a run; returns status and body."""
        run: dict[str, Any] = {
            "agent_id": more.pop("agent_id", AGENT),
            "input": {"type": "text", "text": text},
        }
        if key is not None:
            run["idempotency_key"] = key
        body = {"forward": {"target_selector": selector, "run_request": run}}
        return await self.call("POST", "/v1/federation/runs:forward", json=body, **more)

    async def runs(self, tenant_id: str = TENANT) -> list[str]:
        """Return the runs in this node's own log."""
        found = await self.door.log.last_of_kind("run", tenant_id)
        return [r.ref.aggregate_id for r in found if not r.is_void]

    async def step(self, run_id: str, count: int = 1) -> None:
        """Let an executor begin so many attempts: one event each."""
        for at in range(count):
            await self.handled.start(run_id, f"wrk_{at}", TENANT)

    async def ask(self, run_id: str) -> str:
        """Let an executor find that a tool call of a run needs an approval; returns its id."""
        run = await self.handled.run(run_id, TENANT)
        at = moment(self.handled.clock.now_ms(), self.handled.new_id)
        run.start("wrk_1", at)
        run.begin_model("builtin/echo", 1, True, at)
        assert run.open_model is not None
        call_id = self.handled.new_id("tcall")
        said = answer(run.open_model[0], "", [(call_id, "tool.echo")], policies={"tool.echo": ASKS})
        run.end_model(said, at)
        ask_approval(run, run.answers[-1].tool_calls[0], at)
        await self.handled.stage(run)
        return next(iter(run.approvals.all))

    async def end(self, run_id: str) -> None:
        """Let an executor end a run."""
        run = await self.handled.run(run_id, TENANT)
        run.complete(Output(text="done"), moment(self.handled.clock.now_ms(), self.handled.new_id))
        await self.handled.stage(run)

    async def end_all(self) -> None:
        """Let an executor work off every run."""
        for run_id in await self.runs():
            await self.step(run_id)
            await self.end(run_id)

    async def lines(self, run_id: str) -> list[bytes]:
        """Return a run's own events, byte for byte."""
        records = await MemoryLog.read(self.door.log, run_ref(TENANT, run_id))
        return [line for record in records for line in record.lines()]

    async def remote(self, run_id: str) -> RemoteRun:
        """Return the copy of a remote run."""
        ref = remote_ref(TENANT, run_id)
        return RemoteRun(ref).fold(await MemoryLog.read(self.door.log, ref))

    async def copied(self, run_id: str) -> list[bytes]:
        """Return the copied events of a remote run, byte for byte."""
        records = await MemoryLog.read(self.door.log, remote_ref(TENANT, run_id))
        return [line for _, line in copied_lines(records)]

    async def wait_copied(self, run_id: str, count: int) -> None:
        """Wait until so many events were copied."""
        async with asyncio.timeout(10):
            while (await self.remote(run_id)).copied < count:  # noqa: ASYNC110 - a log has no event
                await asyncio.sleep(0.01)

    def live(self) -> int:
        """Return how many peers answer, as far as this node knows."""
        federation = self.door.gateway._federation
        assert federation is not None
        return sum(known.state == "live" for known in federation.book.all())

    async def peers_now(self) -> dict[str, dict[str, Any]]:
        """Return what the node says of its peers, by their ids."""
        status, body = await self.call("GET", "/v1/federation/peers", headers=bearer(**PLATFORM))
        assert status == 200, body
        return {peer["stack_id"]: peer for peer in body["peers"]}


class SystemNow:
    """The machine's clock, for what is compared with other nodes."""

    def now_ms(self) -> int:
        """Return the milliseconds since the epoch."""
        import time

        return time.time_ns() // 1_000_000


@asynccontextmanager
async def two_nodes(**options: Any) -> AsyncIterator[tuple[FedNode, FedNode]]:
    """Node A, which knows B as its peer, and B, which knows A."""
    to_a: dict[str, Any] = options.pop("to_a", {})
    to_b: dict[str, Any] = options.pop("to_b", {})
    a, b = FedNode("stk_a", **options.pop("a", {})), FedNode("stk_b", **options.pop("b", {}))
    a_ports, b_ports = await reserve(), await reserve()
    a.door.ports, b.door.ports = a_ports, b_ports
    a_entry = entry("stk_a", urls_of(a_ports, tls=bool(to_a.pop("https", False))), **to_a)
    b_entry = entry("stk_b", urls_of(b_ports, tls=bool(to_b.pop("https", False))), **to_b)
    await a.open([b_entry])
    await b.open([a_entry])
    try:
        yield a, b
    finally:
        await a.close()
        await b.close()


async def reserve() -> dict[int, int]:
    """Return three free ports."""
    from tests.infra.embedded import reserved_port

    return {at: reserved_port() for at in range(3)}


def urls_of(ports: dict[int, int], *, tls: bool = False) -> list[str]:
    """Return the doors' URLs on these ports."""
    urls = [f"http://127.0.0.1:{ports[at]}" for at in range(3)]
    return [*urls[:2], urls[2].replace("http:", "https:")] if tls else urls
