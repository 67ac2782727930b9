"""Three real nodes that know each other, with links that a test cuts."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import aiohttp

from agentos.domain.federation.remote import RemoteRun, copied_lines, remote_ref
from agentos.domain.log import Recorded
from agentos.domain.run.run import run_ref
from agentos.domain.subjects import StreamRef
from agentos.infra.jetstream.connection import bounded_close, connect
from agentos.infra.jetstream.log import JetStreamLog
from tests.federation.tcp_proxy import TcpProxy
from tests.journeys.mini_node import DEV_HEADERS, MiniNode

PROCESSES: Final = ("gateway", "handlers", "executor", "projector")
TENANT: Final = "tnt_demo"
AGENTOS: Final = Path(sys.executable).with_name("agentos")


class FedMini(MiniNode):
    """One node of three: its processes are killed and started one by one."""

    def __init__(self, stack_id: str, region: str) -> None:
        super().__init__()
        self.stack_id = stack_id
        self.region = region
        self.peers_file = self.directory / "peers.json"
        self.fed: aiohttp.ClientSession

    def environment(self) -> dict[str, str]:
        """Return the settings of this node."""
        return super().environment() | {
            "AGENTOS_STACK_ID": self.stack_id,
            "AGENTOS_REGION": self.region,
            "AGENTOS_PEERS_FILE": str(self.peers_file),
            "AGENTOS_FED_FORWARD_BASE_BACKOFF_MS": "50",
        }

    async def begin(self) -> None:
        """Start everything."""
        await self.open(*PROCESSES)
        self.fed = aiohttp.ClientSession(
            f"http://127.0.0.1:{self.ports[2]}", headers=DEV_HEADERS, timeout=NO_LIMIT
        )
        await self.gateway_up()

    async def finish(self) -> None:
        """End everything and remove all data."""
        await self.fed.close()
        await self.close()

    async def again(self, name: str, **extra: str) -> None:
        """Start a process anew and wait until it serves."""
        if name in self.processes:
            self.kill(name)
        self.start(name, **extra)
        await (self.gateway_up() if name == "gateway" else self.handlers_up())

    async def forward(self, selector: dict[str, Any], text: str, **more: Any) -> tuple[int, Any]:
        """Forward a run; `(0, …)` when the connection broke."""
        run = {"agent_id": "agt_demo", "input": {"type": "text", "text": text}, **more}
        body = {"forward": {"target_selector": selector, "run_request": run}}
        try:
            async with self.fed.post("/v1/federation/runs:forward", json=body) as answer:
                return answer.status, await answer.json()
        except aiohttp.ClientError:
            return 0, {}

    async def forwarded(self, selector: dict[str, Any], text: str, **more: Any) -> str:
        """Forward a run until it is taken; returns the remote run's id."""
        async with asyncio.timeout(60):
            while True:
                status, body = await self.forward(selector, text, **more)
                if status == 200:
                    run_id: str = body["forwarded"]["remote_run_id"]
                    return run_id
                assert status in (0, 502, 503, 504), body
                await asyncio.sleep(0.2)

    async def follow(self, run_id: str, after: int = 0) -> AsyncIterator[tuple[int, float, bytes]]:
        """Yield sequence, time and line of each event of a remote run through this node."""
        path = f"/v1/federation/runs/{run_id}/events?after_sequence={after}"
        number = 0
        async with self.fed.get(path) as answer:
            assert answer.status == 200, await answer.text()
            async for line in answer.content:
                if line.startswith(b"id: "):
                    number = int(line[4:])
                elif line.startswith(b"data: "):
                    yield number, time.time(), line[6:].rstrip(b"\n")

    async def records(self, ref: StreamRef) -> list[Recorded]:
        """Return what this node's log has of an aggregate."""
        connection = await connect(self.nats.url, "journey")
        try:
            return await JetStreamLog(connection).read(ref)
        finally:
            await bounded_close(connection)

    async def own_lines(self, run_id: str) -> list[bytes]:
        """Return the events of a run that this node executes, byte for byte."""
        return [line for r in await self.records(run_ref(TENANT, run_id)) for line in r.lines()]

    async def copy(self, run_id: str) -> tuple[RemoteRun, list[bytes]]:
        """Return the copy of a remote run, and its lines."""
        ref = remote_ref(TENANT, run_id)
        records = await self.records(ref)
        return RemoteRun(ref).fold(records), [line for _, line in copied_lines(records)]

    async def copied(self, run_id: str, within: float = 60.0) -> list[bytes]:
        """Wait until a copy is whole; returns its lines."""
        async with asyncio.timeout(within):
            while True:
                remote, lines = await self.copy(run_id)
                if remote.has_ended:
                    return lines
                await asyncio.sleep(0.1)

    async def runs(self) -> list[dict[str, Any]]:
        """Return all runs that this node lists."""
        found: list[dict[str, Any]] = []
        query = "?limit=200"
        while True:
            async with self.http.get(f"/v1/runs{query}") as answer:
                body = await answer.json()
            found += body["runs"]
            if "next_cursor" not in body:
                return found
            query = f"?limit=200&cursor={body['next_cursor']}"

    def command(self, *arguments: str) -> Any:
        """Run `agentos … --json`, and return what it printed."""
        others = {k: v for k, v in os.environ.items() if not k.startswith("AGENTOS_")}
        done = subprocess.run(
            [str(AGENTOS), *arguments, "--json"],
            env=others | self.environment(),
            cwd=self.directory,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)


NO_LIMIT: Final = aiohttp.ClientTimeout(total=120)


class Three:
    """Nodes A, B and C; `links[x, y]` are the doors of y as x reaches them."""

    def __init__(self) -> None:
        self.a = FedMini("stk_a", "eu")
        self.b = FedMini("stk_b", "us")
        self.c = FedMini("stk_c", "asia")
        self.nodes = (self.a, self.b, self.c)
        self.links: dict[tuple[str, str], list[TcpProxy]] = {}

    async def begin(self) -> None:
        """Start all of them."""
        for node in self.nodes:
            peers = [await self._entry(node, other) for other in self.nodes if other is not node]
            node.peers_file.write_text(json.dumps({"peers": peers}, indent=1))
        for node in self.nodes:
            await node.begin()

    async def _entry(self, node: FedMini, other: FedMini) -> dict[str, Any]:
        proxies = [TcpProxy(port) for port in other.ports]
        for proxy in proxies:
            await proxy.start()
        self.links[node.stack_id, other.stack_id] = proxies
        urls = [f"http://127.0.0.1:{proxy.port}" for proxy in proxies]
        names = ("agent-orchestrator", "model-policy", "federation")
        return {
            "stack_id": other.stack_id,
            "region": other.region,
            "endpoints": {f"{n}_base_url": u for n, u in zip(names, urls, strict=True)},
        }

    def link(self, a: FedMini, b: FedMini) -> list[TcpProxy]:
        """Return the doors of `b` as `a` reaches them."""
        return self.links[a.stack_id, b.stack_id]

    async def finish(self) -> None:
        """End everything."""
        for node in self.nodes:
            await node.finish()
        for proxies in self.links.values():
            for proxy in proxies:
                await proxy.close()
