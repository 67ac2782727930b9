"""What holds for every tool behind `ToolPort`."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import nats
import pytest
from aiohttp import web

from agentos.domain.auth import AuthContext
from agentos.domain.errors import (
    ForbiddenError,
    InvalidRequestError,
    NotFoundError,
    TimedOutError,
    ToolFailedError,
)
from agentos.domain.ids import TOOL_ID
from agentos.domain.ports import ToolCall, ToolPort
from agentos.infra.tools.build import build_tools
from agentos.infra.tools.jetstream_kv import JetStreamKeyValue
from agentos.infra.tools.key_value import MemoryKeyValue
from agentos.infra.tools.tool import Arguments, make_tool
from tests.infra.embedded import EmbeddedNats
from tests.infra.tools.calls import call, caller

# tool → arguments that fit, arguments that do not; SITE stands for a server's address
TOOLS: dict[str, tuple[dict[str, Any], dict[str, Any] | None]] = {
    "tool.echo": ({"text": "hi"}, None),
    "tool.calculate": ({"expression": "1 + 1"}, {"expression": 1}),
    "tool.time": ({}, {"timezone": 5}),
    "tool.kv.put": ({"key": "k", "value": 1}, {"key": "k"}),
    "tool.kv.get": ({"key": "k"}, {"key": ""}),
    "tool.http.fetch": ({"url": "SITE/"}, {"url": "SITE/", "method": "POST"}),
    "tool.probe.idempotent": ({}, {"sleep_ms": -1}),
    "tool.probe.check": ({}, {"sleep_ms": "long"}),
    "tool.probe.once": ({"label": "x"}, {"unknown": 1}),
    "tool.test.slow": ({}, {"unknown": 1}),
}
# tool → arguments that keep it busy for long
BUSY: dict[str, dict[str, Any]] = {
    "tool.http.fetch": {"url": "SITE/hang"},
    "tool.probe.idempotent": {"sleep_ms": 60_000},
    "tool.probe.check": {"sleep_ms": 60_000},
    "tool.probe.once": {"sleep_ms": 60_000},
    "tool.test.slow": {"ms": 60_000},
}


class SlowArguments(Arguments):
    ms: int = 0


async def slow(auth: AuthContext, call: ToolCall, arguments: SlowArguments) -> Any:
    await asyncio.sleep(arguments.ms / 1000)
    return None


async def serve(request: web.Request) -> web.StreamResponse:
    if request.path == "/hang":
        await asyncio.sleep(60)
    return web.Response(text="x" * 10)


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
async def site(stack: AsyncExitStack) -> str:
    app = web.Application()
    app.router.add_get("/{path:.*}", serve)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return f"http://127.0.0.1:{runner.addresses[0][1]}"


@pytest.fixture(params=["memory", "jetstream"])
async def tools(request: pytest.FixtureRequest, stack: AsyncExitStack, tmp_path: Path) -> ToolPort:
    kv: MemoryKeyValue | JetStreamKeyValue = MemoryKeyValue()
    if request.param == "jetstream":
        server: EmbeddedNats = request.getfixturevalue("nats_server")
        client = await nats.connect(server.url)
        stack.push_async_callback(client.close)
        kv = await JetStreamKeyValue.open(client.jetstream(), bucket=f"kv_{uuid4().hex}")
    return build_tools(
        kv=kv,
        http_allowlist=["127.0.0.1:*"],
        allow_private=True,
        probe_dir=tmp_path,
        more=[make_tool("tool.test.slow", "Sleeps.", SlowArguments, slow)],
    )


def at(site: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value.replace("SITE", site) if isinstance(value, str) else value
        for name, value in arguments.items()
    }


@pytest.fixture(params=TOOLS)
def tool_id(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_its_spec_says_how_to_call_it(tools: ToolPort, tool_id: str) -> None:
    spec = tools.spec(tool_id)
    assert spec is not None
    assert spec.tool_id == tool_id
    assert TOOL_ID.match(spec.tool_id)
    assert spec.description
    assert spec.input_schema["type"] == "object"
    assert spec.timeout_ms > 0
    assert set(spec.input_schema.get("required", ())) <= set(TOOLS[tool_id][0])


async def test_it_answers_a_call(tools: ToolPort, tool_id: str, site: str) -> None:
    await tools.call(caller(), call(tool_id, **at(site, TOOLS[tool_id][0])))


async def test_a_repeated_call_is_safe_where_its_nature_says_so(
    tools: ToolPort, tool_id: str, site: str
) -> None:
    spec = tools.spec(tool_id)
    assert spec is not None
    once = call(tool_id, **at(site, TOOLS[tool_id][0]))
    if spec.nature == "check":
        assert await tools.check(caller(), once) is None
        output = await tools.call(caller(), once)
        assert await tools.check(caller(), once) == output
    else:
        await tools.call(caller(), once)
        with pytest.raises(InvalidRequestError):
            await tools.check(caller(), once)
        if spec.nature == "idempotent":
            await tools.call(caller(), once)


async def test_arguments_that_do_not_fit_are_an_invalid_request(
    tools: ToolPort, tool_id: str, site: str
) -> None:
    wrong = TOOLS[tool_id][1]
    if wrong is not None:  # tool.echo takes anything
        with pytest.raises(InvalidRequestError) as caught:
            await tools.call(caller(), call(tool_id, **at(site, wrong)))
        assert caught.value.details["errors"]


async def test_the_scope_is_required(tools: ToolPort, tool_id: str, site: str) -> None:
    nobody = caller(scopes=frozenset({"models:invoke"}))
    asked = call(tool_id, **at(site, TOOLS[tool_id][0]))
    for ask in (tools.call, tools.check):
        with pytest.raises(ForbiddenError) as caught:
            await ask(nobody, asked)
        assert caught.value.details["required_scope"] == "tools:invoke"


@pytest.mark.parametrize("tool_id", BUSY)
async def test_the_calls_time_limit_holds(tools: ToolPort, tool_id: str, site: str) -> None:
    asked = call(tool_id, timeout_ms=100, **at(site, BUSY[tool_id]))
    with pytest.raises(TimedOutError):
        await asyncio.wait_for(tools.call(caller(), asked), 10)


@pytest.mark.parametrize("tool_id", BUSY)
async def test_cancellation_stops_the_call(tools: ToolPort, tool_id: str, site: str) -> None:
    running = asyncio.create_task(tools.call(caller(), call(tool_id, **at(site, BUSY[tool_id]))))
    done, _ = await asyncio.wait([running], timeout=0.1)
    assert not done
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(running, 2)


async def test_an_output_over_256_kib_fails(tools: ToolPort) -> None:
    with pytest.raises(ToolFailedError):
        await tools.call(caller(), call("tool.echo", text="x" * 262_144))


async def test_a_tool_that_is_not_there(tools: ToolPort) -> None:
    assert tools.spec("tool.nothing") is None
    with pytest.raises(NotFoundError):
        await tools.call(caller(), call("tool.nothing"))


async def test_what_one_tenant_keeps_another_does_not_see(tools: ToolPort) -> None:
    kept = call("tool.kv.put", "tcall_1", key="shared", value="mine")
    await tools.call(caller("tnt_a"), kept)
    await tools.call(caller("tnt_b"), call("tool.kv.put", "tcall_1", key="shared", value="yours"))
    read = call("tool.kv.get", "tcall_2", key="shared")
    assert (await tools.call(caller("tnt_a"), read))["value"] == "mine"
    assert (await tools.call(caller("tnt_b"), read))["value"] == "yours"
    assert (await tools.call(caller("tnt_c"), read))["found"] is False
