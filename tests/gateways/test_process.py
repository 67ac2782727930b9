"""The gateway as a process of its own, on a real broker that goes and comes back."""

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from agentos.domain.log import make_commit
from agentos.domain.tenant.tenant import Profile, Tenant, tenant_ref
from agentos.infra.clock import SystemIds
from agentos.infra.jetstream.connection import bounded_close, connect
from agentos.infra.jetstream.log import JetStreamLog
from agentos.infra.jetstream.streams import provision
from tests.gateways.conftest import AGENT, SECRET, TENANT, Reader, RunScript, bearer, sequences
from tests.infra.embedded import EmbeddedNats


def free_ports(count: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


class Writer:
    """What a `RunScript` needs of a door: a log and ids."""

    def __init__(self, log: JetStreamLog) -> None:
        self.log = log
        self.new_id = SystemIds()


@asynccontextmanager
async def gateway_process(nats_url: str, data_dir: Path) -> AsyncIterator[Any]:
    """Start the process without a PostgreSQL that answers; yield it and its base URLs."""
    *ports, nothing = free_ports(4)
    names = ("ORCHESTRATOR", "MODEL_POLICY", "FEDERATION")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("AGENTOS_")} | {
        "AGENTOS_PROFILE": "dev",
        "AGENTOS_DATA_DIR": str(data_dir),
        "AGENTOS_NATS_URL": nats_url,
        "AGENTOS_POSTGRES_DSN": f"postgresql://nobody@127.0.0.1:{nothing}/none",
        "AGENTOS_JWT_SECRET": SECRET,
        **{f"AGENTOS_{n}_PORT": str(p) for n, p in zip(names, ports, strict=True)},
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "agentos.cli.process",
        "gateway",
        cwd=data_dir,
        env=environment,
        stdout=asyncio.subprocess.DEVNULL,
    )
    try:
        yield process, [f"http://127.0.0.1:{port}" for port in ports]
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def answers(client: aiohttp.ClientSession, path: str, status: int, **options: Any) -> Any:
    """Ask until the status comes; return the body."""
    deadline = time.monotonic() + 15
    while True:
        try:
            async with client.get(path, headers=bearer(), **options) as response:
                if response.status == status:
                    return await response.json()
                seen = f"{response.status} {await response.text()}"
        except aiohttp.ClientConnectionError as exc:
            seen = repr(exc)
        assert time.monotonic() < deadline, seen
        await asyncio.sleep(0.05)


@pytest.mark.filterwarnings("ignore:.*unclosed.*:ResourceWarning")
async def test_it_serves_without_its_dependencies_and_outlives_the_broker(
    own_nats_server: EmbeddedNats, tmp_path: Path
) -> None:
    own_nats_server.kill()
    async with (
        gateway_process(own_nats_server.url, tmp_path) as (process, urls),
        aiohttp.ClientSession(urls[0]) as client,
    ):
        for url in urls:
            await answers(client, f"{url}/healthz", 200)
        checks = (await answers(client, "/readyz", 503))["error"]["details"]["checks"]
        assert not {"ok"} & set(checks.values())
        body = {"input": {"type": "text", "text": "hi"}}
        path = f"/v1/agents/{AGENT}/runs"
        async with client.post(path, json=body, headers=bearer()) as response:
            assert response.status == 503

        own_nats_server.start()
        await provision(own_nats_server.url, durability="process", expect_log=False)
        connection = await connect(own_nats_server.url, "test")
        script = RunScript(Writer(JetStreamLog(connection)), "run_1")
        tenant = Tenant(tenant_ref(TENANT))
        made = tenant.create(Profile(name="A"), script.moment())
        await script.door.log.append(make_commit(tenant.ref, made, script.door.new_id), expected=0)
        await script.stage_created().write()
        run = await answers(client, "/v1/runs/run_1", 200)
        assert (run["run"]["status"], run["run"]["tenant_id"]) == ("queued", TENANT)

        async with client.get("/v1/runs/run_1/events", headers=bearer()) as response:
            reader = Reader(response, timeout=20)
            first = await reader.next()
            own_nats_server.restart()
            await script.stage_steps(1).write()
            second = await reader.next()
            assert sequences([m for m in (first, second) if m]) == [1, 2]
            process.send_signal(signal.SIGTERM)
            assert await reader.next() is None, "it ends the stream, so that the client resumes"
        async with asyncio.timeout(10):
            assert await process.wait() == 0
        await bounded_close(connection)
