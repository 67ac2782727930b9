"""The node under measurement: real servers, real processes, durability `power`, own ports."""

import asyncio
import os
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import aiohttp
import jwt
import psycopg

from agentos.domain.agent.agent import Agent, Definition, agent_ref
from agentos.domain.aggregate import Moment
from agentos.domain.auth import ROLE_SCOPES, SYSTEM_PRINCIPAL
from agentos.domain.envelope import Origin
from agentos.domain.log import make_commit
from agentos.domain.tenant.quotas import Quotas
from agentos.domain.tenant.tenant import Profile, Tenant, tenant_ref
from agentos.infra import nats_server
from agentos.infra.clock import SystemClock, SystemIds
from agentos.infra.jetstream.connection import Connection, bounded_close, connect
from agentos.infra.jetstream.log import JetStreamLog
from agentos.infra.jetstream.streams import provision
from agentos.infra.node.ports import pick_port
from tests.bench.load import Job, Outcome, generate, post_request, with_length
from tests.infra.embedded import EmbeddedNats, EmbeddedPostgres, short_directory

ROOT: Final = Path(__file__).resolve().parents[2]
SECRET: Final = "a-secret-of-the-benchmark-of-over-32-bytes"
TENANT: Final = "tnt_bench"
ECHO: Final = "agt_bench_echo"
SCRIPTED: Final = "agt_bench_script"
# Quotas that never refuse, so that the code which could refuse runs for real.
QUOTAS: Final = {
    "runs": {
        "max_concurrent_runs": 10_000_000,
        "run_create_qps": 1_000_000,
        "run_create_burst": 1_000_000,
    },
    "models": {
        "token_budget": {"window": "day", "max_tokens": 10**14, "max_cost_usd": 1e8},
        "max_requests_per_minute": 10**9,
    },
}
AGENTS: Final = {
    ECHO: Definition(name="Echo", model_ref="builtin/echo"),
    SCRIPTED: Definition(
        name="Script",
        model_ref="builtin/scripted",
        tools=("tool.echo", "tool.calculate", "tool.time"),
    ),
}
ALL: Final = ("handlers", "executor", "projector", "gateway")
NO_TRACE: Final = "00-00000000000000000000000000000000-0000000000000000-00"
BODY: Final = {
    "input": {"type": "text", "text": "What is the weather like in the harbour this morning?"},
    "context": {"locale": "en-GB", "timezone": "Europe/London", "labels": {"team": "bench"}},
    "run_options": {"priority": "normal", "timeout_ms": 60000, "max_steps": 8},
}


def bearer(tenant: str = TENANT, secret: str = SECRET, role: str = "tenant_admin") -> str:
    """Return an `Authorization` header value that the node's identity verifies."""
    now = int(time.time())
    claims: dict[str, Any] = {
        "tenant_id": tenant,
        "sub": "usr_bench",
        "scope": " ".join(sorted(ROLE_SCOPES[role])),
        "roles": [role],
        "iat": now,
        "nbf": now,
        "exp": now + 86_400,
        "iss": "agentos-local",
        "aud": "agentos",
    }
    return "Bearer " + jwt.encode(claims, secret, algorithm="HS256")


class NodeError(Exception):
    """The node under measurement is not there."""


class Node:
    """Servers and AgentOS's processes by name, without a supervisor: the bench is it."""

    def __init__(self, settings: Mapping[str, str] | None = None) -> None:
        self.settings = dict(settings or {})
        self.directory = short_directory()
        self.nats = EmbeddedNats(sync_always=True)
        self.postgres = EmbeddedPostgres()
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        ports: frozenset[int] = frozenset()
        while len(ports) < 3:
            ports |= {pick_port(avoid=ports)}
        self.port, self.second_port, self.third_port = ports
        self.authorization = bearer()
        self.connection: Connection
        self.log: JetStreamLog
        self.http: aiohttp.ClientSession

    async def open(self) -> None:
        """Start the servers, make the streams, the tenant and its agents."""
        self.nats.start()
        self.postgres.start()
        await provision(self.nats.url, durability="power", expect_log=False)
        self.connection = await connect(self.nats.url, "bench")
        self.log = JetStreamLog(self.connection)
        self.http = aiohttp.ClientSession(
            f"http://127.0.0.1:{self.port}", headers={"Authorization": self.authorization}
        )
        await make_tenant(self.log)

    async def close(self) -> None:
        """End everything and remove all data."""
        await self.http.close()
        await bounded_close(self.connection)
        self.stop(*self.processes)
        self.nats.remove()
        self.postgres.remove()
        shutil.rmtree(self.directory, ignore_errors=True)

    def environment(self) -> dict[str, str]:
        """Return the environment of the node's processes."""
        ours = {k: v for k, v in os.environ.items() if not k.startswith("AGENTOS_")}
        return ours | {
            "AGENTOS_PROFILE": "dev",
            "AGENTOS_DATA_DIR": str(self.directory / "data"),
            "AGENTOS_NATS_URL": self.nats.url,
            "AGENTOS_POSTGRES_DSN": self.postgres.dsn,
            "AGENTOS_ORCHESTRATOR_PORT": str(self.port),
            "AGENTOS_MODEL_POLICY_PORT": str(self.second_port),
            "AGENTOS_FEDERATION_PORT": str(self.third_port),
            "AGENTOS_DURABILITY": "power",
            "AGENTOS_JWT_SECRET": SECRET,
            "AGENTOS_LOG_LEVEL": "warning",
            "MALLOC_ARENA_MAX": "2",
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            **self.settings,
        }

    def start(self, *names: str) -> None:
        """Start processes; with `BENCH_PROFILE=DIR` each under cProfile, dumped there."""
        profiles = os.environ.get("BENCH_PROFILE")
        for name in names:
            argv = ["agentos.cli.process", name]
            if profiles:
                argv = ["tests.bench.profiled", profiles, name]
            with (self.directory / f"{name}.log").open("ab") as log:
                self.processes[name] = subprocess.Popen(
                    [sys.executable, "-m", *argv],
                    env=self.environment(),
                    stdout=log,
                    stderr=log,
                    cwd=self.directory,
                )

    def stop(self, *names: str) -> None:
        """Ask processes to end and wait for them."""
        ending = [self.processes.pop(name) for name in names]
        for process in ending:
            process.terminate()
        for process in ending:
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()

    def kill(self, name: str) -> None:
        """End a process as a crash does."""
        process = self.processes.pop(name)
        process.kill()
        process.wait(10)

    async def ready(self, *, within: float = 30.0) -> None:
        """Wait until the gateway knows our agent and a handler answers."""
        await self._until(within, partial(self._answers, "GET", f"/v1/agents/{ECHO}", 200))
        await self._until(within, partial(self._answers, "POST", "/v1/runs/run_none:cancel", 404))

    async def _answers(self, method: str, path: str, status: int) -> bool:
        try:
            async with self.http.request(method, path) as answer:
                return answer.status == status
        except aiohttp.ClientError:
            return False

    async def _until(self, within: float, holds: Callable[[], Awaitable[bool]]) -> None:
        deadline = time.monotonic() + within
        while not await holds():
            died = [n for n, p in self.processes.items() if p.poll() is not None]
            if died or time.monotonic() > deadline:
                raise NodeError(f"not ready; died: {died}; {self.last_words(*died)}")
            await asyncio.sleep(0.02)

    def last_words(self, *names: str) -> str:
        """Return the end of processes' logs."""
        return "\n".join(
            f"{n}: {(self.directory / f'{n}.log').read_text()[-1500:]}"
            for n in names or self.processes
        )

    async def projected(self, *, within: float = 120.0) -> float:
        """Wait until the read models hold all that is in the log now; returns when they did."""
        head = await self.log.head()
        async with await psycopg.AsyncConnection.connect(self.postgres.dsn, autocommit=True) as db:

            async def there() -> bool:
                cursor = await db.execute("SELECT min(position) FROM agentos.projections")
                row = await cursor.fetchone()
                return bool(row and row[0] is not None and row[0] >= head)

            await self._until(within, there)
        return time.monotonic()

    def pids(self) -> dict[str, int]:
        """Return the pid of every process of the node by its name."""
        pids = {name: process.pid for name, process in self.processes.items()}
        servers = {"nats": self.nats.process, "postgres": self.postgres.process}
        return pids | {name: p.pid for name, p in servers.items() if p is not None}

    async def load(
        self,
        kind: str,
        *,
        tag: str,
        body: dict[str, Any] | None = None,
        agent: str = ECHO,
        **job: Any,
    ) -> Outcome:
        """Put load on the gateway: `post`, `whole` or `stream`, as `load.Job` says."""
        path = f"/v1/agents/{agent}/runs" + (":stream" if kind == "stream" else "")
        request = post_request(path, body or BODY, self.authorization)
        return await generate(
            Job(
                port=self.port,
                request=with_length(request, tag),
                kind=kind,
                key=tag,
                authorization=self.authorization,
                expected=200 if kind == "stream" else 201,
                **job,
            )
        )

    async def without_fsync(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do `work` on a broker that does not wait for the disk: to lay down history quickly."""
        await self._serve(sync_always=False)
        await work()
        await self._serve(sync_always=True)

    async def _serve(self, *, sync_always: bool) -> None:
        await bounded_close(self.connection)
        self.nats.stop()
        self.nats.server = nats_server.configure_nats(
            self.nats.server.home, sync_always=sync_always
        )
        self.nats.start()
        self.connection = await connect(self.nats.url, "bench")
        self.log = JetStreamLog(self.connection)


async def make_tenant(log: JetStreamLog) -> None:
    """Append a tenant of tier `standard` with quotas, and its agents, as a seed does."""
    new_id = SystemIds()
    at = Moment(SystemClock().now_ms(), new_id, Origin(NO_TRACE, SYSTEM_PRINCIPAL))
    tenant = Tenant(tenant_ref(TENANT))
    events = tenant.create(Profile(name="Bench", quotas=Quotas.model_validate(QUOTAS)), at)
    await log.append(make_commit(tenant.ref, events, new_id), expected=0)
    for agent_id, definition in AGENTS.items():
        agent = Agent(agent_ref(TENANT, agent_id))
        commit = make_commit(agent.ref, agent.register(definition, at), new_id)
        await log.append(commit, expected=0)


@asynccontextmanager
async def running(*names: str, settings: Mapping[str, str] | None = None) -> AsyncIterator[Node]:
    """Give a fresh node with these processes (`ALL` of them without names), ready for load."""
    node = Node(settings)
    try:
        await node.open()
        node.start(*(names or ALL))
        await node.ready()
        yield node
    finally:
        await node.close()
