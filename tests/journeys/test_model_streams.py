"""A real node: whoever is shut out in mid-stream, and a call with an odd id, explained."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, Final

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from tests.infra.models.fake_server import SSE, sse
from tests.infra.models.openai_server import OpenAIServer, chunk, openai_server
from tests.journeys.real_node import RealNode, real_node

pytestmark = pytest.mark.asyncio(loop_scope="module")

TENANT: Final = "tnt_cut"
ADMIN: Final = f"/v1/admin/tenants/{TENANT}"
CHAT: Final = {
    "model": "openai/fake-1",
    "messages": [{"role": "user", "content": "go on"}],
    "stream": True,
}


async def drip(request: web.Request) -> web.StreamResponse:
    """Say a word now and then, for ever."""
    response = web.StreamResponse(headers={"Content-Type": SSE})
    await response.prepare(request)
    while True:
        await response.write(sse(chunk({"content": "word "})))
        await asyncio.sleep(0.05)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def upstream() -> AsyncIterator[OpenAIServer]:
    async with openai_server(drip) as server:
        yield server


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def node(upstream: OpenAIServer) -> AsyncIterator[RealNode]:
    with real_node(AGENTOS_OPENAI_BASE_URL=upstream.base_url) as node:
        yield node


class Root:
    """The platform's admin at the orchestrator, and streams at the model door."""

    def __init__(self, node: RealNode, http: aiohttp.ClientSession) -> None:
        self.node, self.http = node, http
        self.admin = {"Authorization": f"Bearer {node.token('tnt_demo', 'platform_admin')}"}

    async def ask(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """Ask the orchestrator; what it refuses fails the test."""
        url = f"{self.node.url}{path}"
        async with self.http.request(method, url, json=body, headers=self.admin) as answer:
            found: dict[str, Any] = await answer.json()
            assert answer.status in (200, 201), found
            return found

    def stream(self, bearer: str) -> Any:
        """Begin a stream."""
        url = f"{self.node.door('model_policy')}/v1/chat/completions"
        return self.http.post(url, json=CHAT, headers={"Authorization": f"Bearer {bearer}"})

    async def open_streams(self) -> float:
        """Return what the metric says."""
        async with self.http.get(f"{self.node.door('model_policy')}/metrics") as answer:
            lines = (await answer.text()).splitlines()
        return float(next(n for n in lines if n.startswith("agentos_sse_streams ")).split()[1])


@pytest_asyncio.fixture(loop_scope="module")
async def root(node: RealNode) -> AsyncIterator[Root]:
    async with aiohttp.ClientSession() as http:
        yield Root(node, http)


async def begun(answer: aiohttp.ClientResponse) -> None:
    """Wait for the first word."""
    assert answer.status == 200
    assert answer.headers["X-AgentOS-Model"] == "fake-1"
    async with asyncio.timeout(20):
        while b"word" not in await answer.content.readline():
            pass


async def last_error(answer: aiohttp.ClientResponse) -> str:
    """Return why the stream ended; without a clean end."""
    async with asyncio.timeout(20):
        content = await answer.read()
    assert b"[DONE]" not in content
    last = [line for line in content.split(b"\n") if line.startswith(b"data: ")][-1]
    code: str = json.loads(last[6:])["error"]["code"]
    return code


async def test_a_revoked_key_and_a_disabled_tenant_end_their_streams(
    root: Root, upstream: OpenAIServer
) -> None:
    await root.ask("POST", "/v1/admin/tenants", {"tenant_id": TENANT})
    key = {"roles": ["tenant_user"], "scopes": ["models:invoke"]}
    issued = await root.ask("POST", f"{ADMIN}/keys", key)
    token = root.node.token(TENANT)
    async with root.stream(issued["secret"]) as by_key, root.stream(token) as by_token:
        await begun(by_key)
        await begun(by_token)
        assert await root.open_streams() == 2
        await root.ask("DELETE", f"{ADMIN}/keys/{issued['key']['key_id']}")
        assert await last_error(by_key) == "unauthorized"
        await begun(by_token)  # goes on
        await root.ask("POST", f"{ADMIN}:disable", {"runs": "drain"})
        assert await last_error(by_token) == "tenant_disabled"
    async with asyncio.timeout(20):
        await upstream.left.wait()
        while await root.open_streams():  # noqa: ASYNC110 - a metric has no event
            await asyncio.sleep(0.05)
        while (row := await used(root)).get("interrupted", 0) < 2:  # noqa: ASYNC110 - nor has it
            await asyncio.sleep(0.1)
    assert row["model_calls"] == 2
    assert row["output_tokens"] > 0


async def used(root: Root) -> dict[str, Any]:
    """Return the tenant's usage, once there is any."""
    rows = (await root.ask("GET", f"/v1/usage?tenant_id={TENANT}"))["usage"]
    return rows[0] if rows else {}


async def test_a_call_with_an_odd_id_is_explained(root: Root) -> None:
    request_id = "orders/2026 #7/.."
    asked = {
        "request_id": request_id,
        "operation": "chat",
        "model_ref": "builtin/echo",
        "input": {"messages": [{"role": "user", "content": "hi"}]},
    }
    url = f"{root.node.door('model_policy')}/v1/models:invoke"
    async with root.http.post(url, json={"request": asked}, headers=root.admin) as answer:
        assert answer.status == 200
    told = await asyncio.to_thread(root.node.command, "explain", request_id)
    assert told.returncode == 0, told.stderr
    assert told.stdout.startswith(f"call      {request_id}, answered, ")
