"""A node without its supervisor: real servers and real processes that a test kills one by one."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp

from agentos.handlers.app import seed
from agentos.infra.jetstream.streams import provision
from agentos.infra.settings import Settings
from tests.infra.embedded import EmbeddedNats, EmbeddedPostgres, reserved_port, short_directory

DEV_HEADERS = {"X-Tenant-Id": "tnt_demo", "X-Principal-Id": "usr_test"}


class MiniNode:
    """Servers, and AgentOS's processes by name; `start` what a test needs, `kill` what it likes."""

    def __init__(self) -> None:
        self.directory = short_directory()
        self.nats = EmbeddedNats()
        self.postgres = EmbeddedPostgres()
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.ports = [reserved_port() for _ in range(3)]
        self.http: aiohttp.ClientSession

    async def open(self, *names: str) -> None:
        """Start the servers, make the streams, seed, start the named processes."""
        self.nats.start()
        self.postgres.start()
        await provision(self.nats.url, durability="process", expect_log=False)
        await seed(Settings.load(self.environment()))
        for name in names:
            self.start(name)
        self.http = aiohttp.ClientSession(f"http://127.0.0.1:{self.ports[0]}", headers=DEV_HEADERS)

    def environment(self) -> dict[str, str]:
        """Return the settings of this node."""
        return {
            "AGENTOS_PROFILE": "dev",
            "AGENTOS_DATA_DIR": str(self.directory / "data"),
            "AGENTOS_NATS_URL": self.nats.url,
            "AGENTOS_POSTGRES_DSN": self.postgres.dsn,
            "AGENTOS_ORCHESTRATOR_PORT": str(self.ports[0]),
            "AGENTOS_MODEL_POLICY_PORT": str(self.ports[1]),
            "AGENTOS_FEDERATION_PORT": str(self.ports[2]),
            "AGENTOS_DURABILITY": "process",
            "AGENTOS_PROBE_DIR": str(self.directory),
            "AGENTOS_JWT_SECRET": "a-secret-for-tests-only-of-32-bytes!",
        }

    def start(self, name: str, **extra: str) -> subprocess.Popen[bytes]:
        """Start a process; `name` may end in a number (`executor2`)."""
        others = {k: v for k, v in os.environ.items() if not k.startswith("AGENTOS_")}
        with self.log_path(name).open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", "agentos.cli.process", name.rstrip("0123456789")],
                env=others | self.environment() | extra,
                stdout=log,
                stderr=log,
                cwd=self.directory,
            )
        return self.processes[name]

    def log_path(self, name: str) -> Path:
        """Return where a process writes its log."""
        return self.directory / f"{name}.log"

    def kill(self, name: str) -> None:
        """End a process as a crash does."""
        process = self.processes.pop(name)
        process.kill()
        process.wait(10)

    async def died(self, name: str, within: float = 20.0) -> None:
        """Wait until a process has killed itself at its crash point."""
        process = self.processes.pop(name)
        code = await asyncio.to_thread(process.wait, within)
        assert code == -signal.SIGKILL, self.log_path(name).read_text()[-2000:]

    async def ready(self, within: float = 30.0) -> None:
        """Wait until the node says that it is ready."""
        async with asyncio.timeout(within):
            while True:
                try:
                    async with self.http.get("/readyz") as answer:
                        if answer.status == 200:
                            return
                except aiohttp.ClientError:
                    pass
                await asyncio.sleep(0.05)

    async def gateway_up(self, within: float = 30.0) -> None:
        """Wait until the gateway answers and its handlers and projector are there."""
        async with asyncio.timeout(within):
            while True:
                try:
                    async with self.http.get("/v1/agents/agt_demo") as answer:
                        if answer.status == 200:
                            break
                except aiohttp.ClientError:
                    pass
                await asyncio.sleep(0.05)
        await self.handlers_up(within)

    async def handlers_up(self, within: float = 30.0) -> None:
        """Wait until a handler answers commands."""
        async with asyncio.timeout(within):
            while True:
                async with self.http.post("/v1/runs/run_none:cancel") as answer:
                    if answer.status == 404:
                        return
                await asyncio.sleep(0.05)

    async def register(self, agent_id: str, **definition: Any) -> None:
        """Register an agent on `builtin/scripted` as the tenant's admin."""
        body = {"agent_id": agent_id, "name": agent_id, "model_ref": "builtin/scripted"}
        scopes = {"X-Scopes": "agents:write"}
        async with self.http.post("/v1/agents", json=body | definition, headers=scopes) as answer:
            assert answer.status == 201, await answer.text()

    async def post_run_until_accepted(
        self, text: str, agent: str = "agt_demo", **more: Any
    ) -> tuple[int, dict[str, Any]]:
        """Start a run, again and again while a dependency is away."""
        async with asyncio.timeout(30):
            while True:
                status, body = await self.post_run(text, agent, **more)
                if status < 500:
                    return status, body
                await asyncio.sleep(0.1)

    async def post_run(
        self,
        text: str,
        agent: str = "agt_demo",
        headers: Mapping[str, str] | None = None,
        **more: Any,
    ) -> tuple[int, dict[str, Any]]:
        """Start a run; returns the status and the body."""
        body: Mapping[str, Any] = {"input": {"type": "text", "text": text}, **more}
        url = f"/v1/agents/{agent}/runs"
        async with self.http.post(url, json=body, headers=headers) as answer:
            return answer.status, await answer.json()

    async def finished(self, run_id: str, within: float = 30.0) -> dict[str, Any]:
        """Wait until a run has ended and return it."""
        async with asyncio.timeout(within):
            while True:
                run = await self._wait(run_id)
                if run is not None and run["status"] in ("completed", "failed", "canceled"):
                    return run
                await asyncio.sleep(0.05)

    async def _wait(self, run_id: str) -> dict[str, Any] | None:
        try:
            async with self.http.get(f"/v1/runs/{run_id}/wait?timeout_ms=5000") as answer:
                if answer.status != 200:
                    return None
                run: dict[str, Any] = (await answer.json())["run"]
                return run
        except aiohttp.ClientError:
            return None

    async def events(self, run_id: str) -> list[dict[str, Any]]:
        """Return all events of a finished run, read over SSE."""
        events = []
        async with self.http.get(f"/v1/runs/{run_id}/events") as answer:
            assert answer.status == 200, await answer.text()
            async for line in answer.content:
                if line.startswith(b"data: "):
                    events.append(json.loads(line[6:])["event"])
        return events

    async def close(self) -> None:
        """End everything and remove all data."""
        await self.http.close()
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            process.wait(20)
        self.nats.remove()
        self.postgres.remove()
        shutil.rmtree(self.directory, ignore_errors=True)


async def agentos(node: MiniNode, *words: str, **extra: str) -> tuple[int, str]:
    """Run the command as the node's operator does; returns its code and what it printed."""
    others = {k: v for k, v in os.environ.items() if not k.startswith("AGENTOS_")}
    program = Path(sys.executable).with_name("agentos")
    done = await asyncio.to_thread(
        subprocess.run,
        [str(program), *words],
        env=others | node.environment() | extra,
        cwd=node.directory,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return done.returncode, done.stdout + (done.stderr if done.returncode else "")
