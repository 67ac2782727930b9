"""Tenants on a real node: made, limited, closed and removed, seen by two handler processes."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import pytest
import pytest_asyncio

from agentos.domain.run.events import FINAL_TYPES
from agentos.domain.run.run import run_ref
from agentos.domain.subjects import StreamRef
from agentos.infra.jetstream.connection import bounded_close, connect
from agentos.infra.jetstream.log import JetStreamLog
from tests.journeys.mini_node import MiniNode

pytestmark = pytest.mark.asyncio(loop_scope="module")
WITHIN_S = 1.0


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def node() -> AsyncIterator[MiniNode]:
    """A node with two handler processes."""
    node = MiniNode()
    await node.open("gateway", "handlers", "handlers2", "executor", "projector")
    await node.ready()
    yield node
    await node.close()


def bearer(node: MiniNode, tenant_id: str, role: str) -> dict[str, str]:
    """Return the header of a caller with that role."""
    claims = {
        "iss": "agentos-local",
        "aud": "agentos",
        "exp": time.time() + 600,
        "tenant_id": tenant_id,
        "sub": f"usr_{role}",
        "roles": [role],
    }
    secret = node.environment()["AGENTOS_JWT_SECRET"]
    return {"Authorization": f"Bearer {jwt.encode(claims, secret, 'HS256')}"}


class Caller:
    """One caller of a node."""

    def __init__(self, node: MiniNode, tenant_id: str, role: str) -> None:
        self.url = f"http://127.0.0.1:{node.ports[0]}"
        self.headers = bearer(node, tenant_id, role)

    async def __call__(
        self, method: str, path: str, body: Any = None
    ) -> tuple[int, Mapping[str, Any]]:
        """Call the API; return status and body."""
        async with (
            aiohttp.ClientSession(headers=self.headers) as http,
            http.request(method, f"{self.url}{path}", json=body) as answer,
        ):
            return answer.status, await answer.json()


def run_of(text: str) -> dict[str, Any]:
    """Return the body of a run."""
    return {"input": {"type": "text", "text": text}}


async def test_a_tenants_life(node: MiniNode) -> None:
    root = Caller(node, "tnt_demo", "platform_admin")
    own = Caller(node, "tnt_life", "tenant_admin")
    quotas = {"runs": {"max_concurrent_runs": 1}}
    status, made = await root(
        "POST", "/v1/admin/tenants", {"tenant_id": "tnt_life", "quotas": quotas}
    )
    assert status == 201, made
    agent = {"agent_id": "agt_s", "name": "S", "model_ref": "builtin/scripted"}
    status, answer = await own("POST", "/v1/agents", agent)  # at once, by either process
    assert status == 201, answer

    status, answer = await own("POST", "/v1/agents/agt_s/runs", run_of("sleep 60000"))
    assert status == 201, answer
    first = answer["run"]["run_id"]
    status, answer = await own("POST", "/v1/agents/agt_s/runs", run_of("x"))
    assert (status, answer["error"]["code"]) == (429, "quota_exceeded")
    path = "/v1/admin/tenants/tnt_life"
    status, answer = await own("PATCH", path, {"quotas": {"runs": {"max_concurrent_runs": 2}}})
    assert (status, answer["error"]["code"]) == (403, "forbidden")
    for limit in range(2, 8):  # a raised quota is accepted at once, whichever process answers
        quotas = {"runs": {"max_concurrent_runs": limit}}
        assert (await root("PATCH", path, {"quotas": quotas}))[0] == 200
        status, answer = await own("POST", "/v1/agents/agt_s/runs", run_of("sleep 60000"))
        assert status == 201, answer
    status, answer = await own("GET", f"{path}/usage")
    assert (answer["usage"][0]["runs_active"], answer["usage"][0]["runs_limit"]) == (7, 7)

    status, answer = await root("POST", f"{path}:disable", {"runs": "drain"})
    assert answer["tenant"]["status"] == "disabled"
    began = time.monotonic()
    await _until_refused(own)
    assert time.monotonic() - began < WITHIN_S + 1
    status, answer = await root("POST", f"{path}:disable", {"runs": "cancel"})
    assert status == 200
    assert (await root("POST", f"{path}:enable"))[0] == 200
    status, answer = await own("GET", f"/v1/runs/{first}/wait?timeout_ms=10000")
    assert answer["run"]["status"] == "canceled"
    for _ in range(4):  # and at once: nothing is refused from stale memory
        status, answer = await own("POST", "/v1/agents/agt_s/runs", run_of("hi"))
        assert status == 201, answer

    assert (await root("DELETE", f"{path}?confirm=tnt_life"))[0] == 409
    await root("POST", f"{path}:disable", {"runs": "cancel"})
    assert (await root("DELETE", f"{path}?confirm=tnt_life"))[0] == 200
    assert (await root("POST", "/v1/admin/tenants", {"tenant_id": "tnt_life"}))[0] == 409
    assert (await root("GET", path))[0] == 404


async def _ended(node: MiniNode, ref: StreamRef) -> None:
    """Wait until the log has a run's final event: of a disabled tenant no door tells."""
    connection = await connect(node.nats.url, "test")
    try:
        log = JetStreamLog(connection)
        async with asyncio.timeout(20):
            async with aclosing(log.tail(after=0, tenant_id=ref.tenant_id)) as tail:  # type: ignore[type-var]  # an async generator
                async for batch in tail:
                    for record in batch.records:
                        if record.ref == ref and not FINAL_TYPES.isdisjoint(record.types):
                            return
    finally:
        await bounded_close(connection)


async def _until_refused(own: Caller) -> None:
    """Wait until four runs in a row are refused, so that both processes were asked."""
    refused = 0
    async with asyncio.timeout(5):
        while refused < 4:
            status, answer = await own("POST", "/v1/agents/agt_s/runs", run_of("hi"))
            disabled = status == 403 and answer["error"]["code"] == "tenant_disabled"
            refused = refused + 1 if disabled else 0


async def test_runs_of_a_disabled_tenant_drain_through_their_model_calls(node: MiniNode) -> None:
    root = Caller(node, "tnt_demo", "platform_admin")
    own = Caller(node, "tnt_drain", "tenant_admin")
    assert (await root("POST", "/v1/admin/tenants", {"tenant_id": "tnt_drain"}))[0] == 201
    agent = {
        "agent_id": "agt_s",
        "name": "S",
        "model_ref": "builtin/scripted",
        "tools": ["tool.calculate"],
    }
    assert (await own("POST", "/v1/agents", agent))[0] == 201
    # A second model call, and the budget of a tenant of plan standard, come behind the pause.
    _, answer = await own("POST", "/v1/agents/agt_s/runs", run_of("sleep 1500\ncalculate 6 * 7"))
    run_id = answer["run"]["run_id"]
    disabled, _ = await root("POST", "/v1/admin/tenants/tnt_drain:disable", {"runs": "drain"})
    assert disabled == 200
    assert (await own("GET", f"/v1/runs/{run_id}"))[0] == 403
    await _ended(node, run_ref("tnt_drain", run_id))
    assert (await root("POST", "/v1/admin/tenants/tnt_drain:enable"))[0] == 200
    _, answer = await own("GET", f"/v1/runs/{run_id}")
    assert answer["run"]["status"] == "completed", answer
    assert answer["run"]["summary"]["model_calls_total"] == 2


async def test_a_handler_killed_while_it_cancels_loses_no_cancel(node: MiniNode) -> None:
    root = Caller(node, "tnt_demo", "platform_admin")
    own = Caller(node, "tnt_crash", "tenant_admin")
    assert (await root("POST", "/v1/admin/tenants", {"tenant_id": "tnt_crash"}))[0] == 201
    agent = {"agent_id": "agt_s", "name": "S", "model_ref": "builtin/scripted"}
    assert (await own("POST", "/v1/agents", agent))[0] == 201
    answers = await asyncio.gather(
        *(own("POST", "/v1/agents/agt_s/runs", run_of("sleep 60000")) for _ in range(30))
    )
    runs = [answer["run"]["run_id"] for _, answer in answers]
    disabling = asyncio.create_task(
        root("POST", "/v1/admin/tenants/tnt_crash:disable", {"runs": "cancel"})
    )
    await asyncio.sleep(0.02)
    node.kill("handlers")
    await asyncio.wait([disabling])
    node.start("handlers")
    await node.handlers_up()
    status, answer = await root("POST", "/v1/admin/tenants/tnt_crash:disable", {"runs": "cancel"})
    assert status == 200, answer
    assert (await root("POST", "/v1/admin/tenants/tnt_crash:enable"))[0] == 200
    for run_id in runs:
        _, answer = await own("GET", f"/v1/runs/{run_id}/wait?timeout_ms=10000")
        assert answer["run"]["status"] == "canceled"


def command(node: MiniNode, *arguments: str) -> Any:
    """Run `agentos` on the node's machine; return what it printed as JSON."""
    others = {k: v for k, v in os.environ.items() if not k.startswith("AGENTOS_")}
    done = subprocess.run(
        [str(Path(sys.executable).with_name("agentos")), *arguments, "--json"],
        env=others | node.environment(),
        cwd=node.directory,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


async def test_on_the_nodes_machine_the_command_line_is_the_platform_admin(
    node: MiniNode,
) -> None:
    def all_of_it() -> None:
        made = command(node, "tenants", "create", "tnt_cli", "--plan", "premium")
        assert made["tenant"]["plan_tier"] == "premium"
        issued = command(node, "keys", "issue", "--tenant", "tnt_cli", "--role", "tenant_admin")
        assert issued["secret"].startswith("aos_")
        listed = command(node, "keys", "list", "--tenant", "tnt_cli")["keys"]
        assert [key["key_id"] for key in listed] == [issued["key"]["key_id"]]
        ids = [t["tenant_id"] for t in command(node, "tenants", "list")["tenants"]]
        assert {"tnt_cli", "tnt_demo"} <= set(ids)
        command(node, "tenants", "disable", "tnt_cli")
        gone = command(node, "tenants", "delete", "tnt_cli", "--yes-really")
        assert gone["tenant"]["status"] == "deleted"

    await asyncio.to_thread(all_of_it)
