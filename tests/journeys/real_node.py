"""A node that `agentos up` starts, supervisor and all, in a directory of its own."""

import asyncio
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp
import psutil
from psycopg import AsyncConnection
from psycopg.rows import dict_row

from agentos.cli.node_client import describe
from agentos.infra.jetstream.connection import bounded_close, connect
from agentos.infra.jetstream.log import JetStreamLog
from agentos.infra.node.paths import NodePaths
from tests.infra.embedded import reserved_port, short_directory

AGENTOS: Final = Path(sys.executable).with_name("agentos")
FINAL: Final = ("completed", "failed", "canceled")
DOORS: Final = ("orchestrator", "model_policy", "federation")
SECRET: Final = "a-secret-for-tests-only-of-32-bytes!"
REFUSED_S: Final = 10.0


class RealNode:
    """The command line's view of one node. Durability is the default, `power`."""

    def __init__(self, **settings: str) -> None:
        self.directory = short_directory()
        ports = [reserved_port() for _ in DOORS]
        self.ports = dict(zip(DOORS, ports, strict=True))
        self.settings = settings

    @property
    def data(self) -> Path:
        """The node's data directory."""
        return self.directory / "data"

    @property
    def url(self) -> str:
        """The orchestrator's base URL."""
        return self.door("orchestrator")

    def door(self, name: str) -> str:
        """Return the base URL of a gateway."""
        return f"http://127.0.0.1:{self.ports[name]}"

    def environment(self) -> dict[str, str]:
        """Return the environment of this node's commands."""
        others = {k: v for k, v in os.environ.items() if not k.startswith("AGENTOS_")}
        ports = {f"AGENTOS_{name.upper()}_PORT": str(port) for name, port in self.ports.items()}
        ours = {
            "AGENTOS_DATA_DIR": str(self.data),
            "AGENTOS_REPORTS_DIR": str(self.directory / "reports"),
            "AGENTOS_PROBE_DIR": str(self.directory),
            "AGENTOS_JWT_SECRET": SECRET,
        }
        return others | ours | ports | self.settings

    def command(self, *arguments: str, timeout: float = 60.0) -> "subprocess.CompletedProcess[str]":
        """Run `agentos …` to its end."""
        return subprocess.run(
            [str(AGENTOS), *arguments],
            env=self.environment(),
            cwd=self.directory,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )

    def told(self, *arguments: str) -> dict[str, Any]:
        """Run a command that must succeed, and return its JSON."""
        done = self.command(*arguments, "--json")
        assert done.returncode == 0, done.stdout + done.stderr
        content: dict[str, Any] = json.loads(done.stdout)
        return content

    def up(self) -> None:
        """Start the node; returns when it is ready."""
        done = self.command("up", "--mode", "dev")
        assert done.returncode == 0, done.stdout + done.stderr

    def down(self) -> None:
        """Stop the node and keep its data."""
        done = self.command("down")
        assert done.returncode == 0, done.stdout + done.stderr

    def status(self) -> dict[str, Any]:
        """Return what `agentos status --json` says."""
        done = self.command("status", "--json")
        assert done.returncode in (0, 1, 3), done.stdout + done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def states(self) -> dict[str, tuple[int | None, str]]:
        """Return pid and state of each process by its name, asked of the supervisor directly."""
        found = describe(NodePaths(self.data))
        return {p["name"]: (p["pid"], p["state"]) for p in found["processes"]} if found else {}

    def pids(self) -> dict[str, int]:
        """Return the pid of every process of the node by its name, the supervisor's too."""
        found = self.status()
        pids = {process["name"]: process["pid"] for process in found["processes"]}
        return pids | {"supervisor": found["supervisor"]["pid"]}

    def token(self, tenant: str, role: str = "tenant_user") -> str:
        """Return a credential of a tenant."""
        done = self.command("token", "--tenant", tenant, "--role", role)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def log_text(self) -> str:
        """Return everything that the node's processes logged."""
        files = [path for path in (self.data / "logs").rglob("*") if path.is_file()]
        assert files
        return "".join(path.read_text(errors="replace") for path in files)

    def own_processes(self) -> list[psutil.Process]:
        """Return the living processes that belong to this node, by their environment or place.

        Found without the node's own books: the point is to see whom those forgot.
        """
        return [process for process in psutil.process_iter() if self._is_ours(process)]

    def _is_ours(self, process: psutil.Process) -> bool:
        place = str(self.directory)
        try:
            if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                return False
            if any(place in argument for argument in process.cmdline()):
                return True
            if process.cwd().startswith(place):  # PostgreSQL hides its arguments behind titles
                return True
            return process.environ().get("AGENTOS_DATA_DIR") == str(self.data)
        except psutil.Error:
            return False

    def remove(self) -> None:
        """Stop the node and remove everything, whatever state it is in."""
        try:
            self.command("nuke", "--hard", "--yes-really")
        finally:
            for process in self.own_processes():
                os.kill(process.pid, signal.SIGKILL)
            shutil.rmtree(self.directory, ignore_errors=True)

    def client(self, tenant: str = "tnt_demo", **headers: str) -> "Client":
        """Return a client of the orchestrator that says who it is by dev headers."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return Client(self.url, {"X-Tenant-Id": tenant, "X-Principal-Id": "usr_test"} | named)

    def runtime(self) -> dict[str, str]:
        """Return how its servers are reached."""
        content: dict[str, str] = json.loads((self.data / "runtime.json").read_text())
        return content

    @asynccontextmanager
    async def log(self) -> AsyncIterator[JetStreamLog]:
        """Give its log."""
        connection = await connect(self.runtime()["nats_url"], "journey")
        try:
            yield JetStreamLog(connection)
        finally:
            await bounded_close(connection)

    async def rows(self, query: str) -> list[dict[str, Any]]:
        """Return what a query finds in the read models."""
        dsn = self.runtime()["postgres_dsn"]
        async with await AsyncConnection.connect(dsn, row_factory=dict_row) as database:
            return await (await database.execute(query.encode())).fetchall()


class Client:
    """One caller over HTTP. `async with` opens and closes its connections."""

    def __init__(self, url: str, headers: dict[str, str]) -> None:
        self._url, self._headers = url, headers
        self.http: aiohttp.ClientSession

    async def __aenter__(self) -> "Client":
        self.http = aiohttp.ClientSession(
            self._url,
            headers=self._headers,
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=90),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.http.close()

    async def ask(self, method: str, path: str, **more: Any) -> tuple[int, dict[str, Any]]:
        """Make a call; returns the status and the JSON body (`{}` where there is none).

        A refused connection carried nothing: it is tried again, as any client would, until the
        gateway should be back.
        """
        until = time.monotonic() + REFUSED_S
        while True:
            try:
                async with self.http.request(method, path, **more) as answer:
                    raw = await answer.read()
                    return answer.status, json.loads(raw) if raw else {}
            except aiohttp.ClientConnectorError:
                if time.monotonic() > until:
                    raise
                await asyncio.sleep(0.05)

    async def start(self, text: str, agent: str = "agt_demo", **more: Any) -> str:
        """Start a run that must be accepted; returns its id.

        What the node cannot do for the moment is asked for again under the same key.
        """
        body = {"input": {"type": "text", "text": text}, **more}
        path, key = f"/v1/agents/{agent}/runs", {"Idempotency-Key": secrets.token_hex(8)}
        until = time.monotonic() + REFUSED_S
        while True:
            status, answer = await self.ask("POST", path, json=body, headers=key)
            if status != 503 or time.monotonic() > until:
                break
            await asyncio.sleep(0.05)
        assert status in (200, 201), answer
        run_id: str = answer["run"]["run_id"]
        return run_id

    async def wait(self, run_id: str, timeout_ms: int = 30_000) -> dict[str, Any]:
        """Return a run once it is final, or as it is when the time is up."""
        path = f"/v1/runs/{run_id}/wait?timeout_ms={timeout_ms}"
        status, answer = await self.ask("GET", path)
        assert status == 200, answer
        run: dict[str, Any] = answer["run"]
        return run

    async def cancel(self, run_id: str) -> tuple[int, dict[str, Any]]:
        """Cancel a run; returns the status and the body."""
        return await self.ask("POST", f"/v1/runs/{run_id}:cancel")

    async def register(self, agent_id: str, **definition: Any) -> None:
        """Register an agent on `builtin/scripted` as the tenant's admin."""
        body = {"agent_id": agent_id, "name": agent_id, "model_ref": "builtin/scripted"}
        scopes = {"X-Scopes": "agents:write"}
        status, answer = await self.ask(
            "POST", "/v1/agents", json=body | definition, headers=scopes
        )
        assert status == 201, answer

    async def events(self, run_id: str) -> list[dict[str, Any]]:
        """Return all events of a finished run."""
        return [event async for event in self.follow(run_id)]

    async def follow(self, run_id: str, query: str = "") -> AsyncIterator[dict[str, Any]]:
        """Yield a run's events as they come, until the node closes the stream."""
        async for name, data in self.frames(f"/v1/runs/{run_id}/events{query}"):
            if name == "agentos.event":
                yield data["event"]

    async def frames(self, path: str) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        """Yield name and data of every message of a stream."""
        async with self.http.get(path, read_bufsize=2**22) as answer:
            if answer.status == 204:
                return
            assert answer.status == 200, await answer.text()
            async for frame in self.read_frames(answer):
                yield frame

    @staticmethod
    async def read_frames(
        answer: aiohttp.ClientResponse,
    ) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        """Yield name and data of every whole message of an open stream."""
        name = ""
        async for line in answer.content:
            if line.startswith(b"event: "):
                name = line[7:].strip().decode()
            elif line.startswith(b"data: ") and line.endswith(b"\n"):
                yield name, json.loads(line[6:])

    async def seen(self, run_id: str, event_type: str, within: float = 20.0) -> dict[str, Any]:
        """Wait until a run has an event of a type, and return it."""
        async with asyncio.timeout(within):
            async for event in self.follow(run_id):
                if event["type"] == event_type:
                    return event
        raise AssertionError(f"{run_id} ended without {event_type}")

    async def open_streams(self) -> float:
        """Return how many event streams the gateway says are open."""
        async with self.http.get("/metrics") as answer:
            lines = (await answer.text()).splitlines()
        return float(next(n for n in lines if n.startswith("agentos_sse_streams ")).split()[1])

    async def is_ready(self) -> bool:
        """Return whether `/readyz` is 200 now."""
        try:
            async with self.http.get("/readyz", timeout=aiohttp.ClientTimeout(total=2)) as answer:
                return answer.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False


def lives(pid: int) -> bool:
    """Return whether a process lives; a zombie does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def eventually(holds: Callable[[], bool], within: float, what: str) -> float:
    """Poll until `holds()`; returns the seconds it took, fails when the time is up."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < within, f"not within {within} s: {what}"
        await asyncio.sleep(0.05)
    return time.monotonic() - began


@contextmanager
def unused_node() -> Iterator[RealNode]:
    """Give a node that was never started, and remove whatever becomes of it."""
    node = RealNode()
    try:
        yield node
    finally:
        node.remove()


@contextmanager
def real_node(**settings: str) -> Iterator[RealNode]:
    """Give a node that is up, and remove it at the end; a failure shows its logs' ends."""
    node = RealNode(**settings)
    try:
        node.up()
        yield node
    finally:
        node.remove()
