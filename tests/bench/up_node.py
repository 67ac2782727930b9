"""A whole node by `agentos up`, supervisor and all, in a directory of its own."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg

from agentos.infra import nats_server
from agentos.infra.jetstream.connection import bounded_close, connect
from agentos.infra.jetstream.log import JetStreamLog
from agentos.infra.node.ports import pick_port
from tests.bench.load import Job, Outcome, generate, post_request, with_length
from tests.bench.node import BODY, ECHO, SECRET, NodeError, bearer, make_tenant
from tests.infra.embedded import short_directory

AGENTOS = Path(sys.executable).parent / "agentos"


class UpNode:
    """A node that the command line starts and stops. Its log is reached beside it."""

    def __init__(self) -> None:
        self.directory = short_directory()
        ports: frozenset[int] = frozenset()
        while len(ports) < 3:
            ports |= {pick_port(avoid=ports)}
        self.port, self._second_port, self._third_port = ports
        self.authorization = bearer()

    def environment(self) -> dict[str, str]:
        """Return the environment of the commands; durability is the default, `power`."""
        ours = {k: v for k, v in os.environ.items() if not k.startswith("AGENTOS_")}
        return ours | {
            "AGENTOS_DATA_DIR": str(self.directory / "data"),
            "AGENTOS_REPORTS_DIR": str(self.directory / "reports"),
            "AGENTOS_ORCHESTRATOR_PORT": str(self.port),
            "AGENTOS_MODEL_POLICY_PORT": str(self._second_port),
            "AGENTOS_FEDERATION_PORT": str(self._third_port),
            "AGENTOS_JWT_SECRET": SECRET,
            "AGENTOS_LOG_LEVEL": "warning",
        }

    async def command(self, *arguments: str, timeout: float = 120.0) -> str:
        """Run `agentos …` and return what it prints; `NodeError` when it fails."""
        process = await asyncio.create_subprocess_exec(
            str(AGENTOS),
            *arguments,
            env=self.environment(),
            cwd=self.directory,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(), timeout)
        if process.returncode != 0:
            raise NodeError(f"agentos {' '.join(arguments)}: {(out + err).decode()[-1500:]}")
        return out.decode()

    async def up(self) -> float:
        """Start the node; returns the seconds until the command says that it is ready."""
        began = time.monotonic()
        await self.command("up", "--mode", "dev")
        return time.monotonic() - began

    async def down(self) -> None:
        """Stop the node and keep its data."""
        await self.command("down")

    async def remove(self) -> None:
        """Stop the node and remove everything."""
        try:
            await self.command("nuke", "--hard", "--yes-really")
        finally:
            shutil.rmtree(self.directory, ignore_errors=True)

    async def status(self) -> dict[str, Any]:
        """Return what `agentos status --json` says."""
        status: dict[str, Any] = json.loads(await self.command("status", "--json"))
        return status

    async def pids(self) -> dict[str, int]:
        """Return the pid of every process by its name, the supervisor's too."""
        status = await self.status()
        pids = {process["name"]: process["pid"] for process in status["processes"]}
        return pids | {"supervisor": status["supervisor"]["pid"]}

    def runtime(self) -> dict[str, str]:
        """Return how its servers are reached."""
        content: dict[str, str] = json.loads((self.directory / "data/runtime.json").read_text())
        return content

    @asynccontextmanager
    async def log(self) -> AsyncIterator[JetStreamLog]:
        """Give its log."""
        connection = await connect(self.runtime()["nats_url"], "bench")
        try:
            yield JetStreamLog(connection)
        finally:
            await bounded_close(connection)

    async def prepare(self) -> None:
        """Write the bench's tenant and agents, and wait until they are usable."""
        async with self.log() as log:
            await make_tenant(log)
        await self.load("whole", tag="first", clients=1, count=5)

    async def load(self, kind: str, *, tag: str, **job: Any) -> Outcome:
        """Put load on the gateway, as `Node.load`."""
        path = f"/v1/agents/{ECHO}/runs" + (":stream" if kind == "stream" else "")
        request = with_length(post_request(path, BODY, self.authorization), tag)
        return await generate(
            Job(
                port=self.port,
                request=request,
                kind=kind,
                key=tag,
                authorization=self.authorization,
                expected=200 if kind == "stream" else 201,
                **job,
            )
        )

    async def projected(self, *, within: float) -> None:
        """Wait until the read models hold all that is in the log now."""
        async with self.log() as log:
            head = await log.head()
        dsn = self.runtime()["postgres_dsn"]
        async with (
            asyncio.timeout(within),
            await psycopg.AsyncConnection.connect(dsn, autocommit=True) as db,
        ):
            while True:
                cursor = await db.execute("SELECT min(position) FROM agentos.projections")
                row = await cursor.fetchone()
                if row and row[0] is not None and row[0] >= head:
                    return
                await asyncio.sleep(0.1)

    async def without_fsync(self, work: Callable[[JetStreamLog], Awaitable[None]]) -> None:
        """While the node is down: do `work` on its log through a broker that skips the disk wait.

        History is laid down quickly so; the node itself then runs with `power` again.
        """
        home = self.directory / "data" / "nats"
        server = nats_server.configure_nats(home, sync_always=False)
        process = subprocess.Popen(  # noqa: ASYNC220 - starts at once
            server.argv, stderr=subprocess.DEVNULL
        )
        try:
            if not await asyncio.to_thread(nats_server.wait_until_ready, server, 30):
                raise NodeError("the broker does not start")
            connection = await connect(server.url, "bench")
            try:
                await work(JetStreamLog(connection))
            finally:
                await bounded_close(connection)
        finally:
            process.terminate()
            await asyncio.to_thread(process.wait, 30)
        os.sync()


@asynccontextmanager
async def up_node() -> AsyncIterator[UpNode]:
    """Give a node that `agentos up` will start in a fresh directory, and remove it at the end."""
    node = UpNode()
    try:
        yield node
    finally:
        await node.remove()
