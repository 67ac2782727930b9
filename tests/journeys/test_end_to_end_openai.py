"""An agent on a server that speaks OpenAI: tools, deltas, failures, cancel, and the key."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import pytest
import pytest_asyncio
from aiohttp import web

from tests.infra.models.openai_server import (
    OpenAIServer,
    Reply,
    abort,
    call_piece,
    chunk,
    hang,
    openai_server,
    status,
    stream,
    text_stream,
)
from tests.journeys.real_node import Client, RealNode, real_node

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEY: Final = "sk-a-key-that-must-never-be-seen-0123456789"
AGENT: Final = "agt_openai"
PIECES: Final = ("The answer", " is", " forty", "-two.")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def server() -> AsyncIterator[OpenAIServer]:
    async with openai_server() as server:
        yield server


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def node(server: OpenAIServer) -> AsyncIterator[RealNode]:
    settings = {"AGENTOS_OPENAI_BASE_URL": server.base_url, "AGENTOS_OPENAI_API_KEY": KEY}
    with real_node(**settings) as node:
        async with node.client() as client:
            await client.register(
                AGENT,
                model_ref="openai/fake-1",
                tools=["tool.calculate"],
                instructions="Use the calculator.",
            )
        yield node


@pytest_asyncio.fixture(loop_scope="module")
async def client(node: RealNode) -> AsyncIterator[Client]:
    async with node.client() as client:
        yield client


def answer_with(server: OpenAIServer, *replies: Reply) -> None:
    """Let the server answer with these from now on, and forget what it was asked."""
    server.replies[:] = replies
    server.bodies.clear()
    server.asked.clear()
    server.left.clear()


def calculates(server: OpenAIServer) -> Reply:
    """Return a reply that asks for the calculator, by the name that the request gave it."""

    async def reply(request: web.Request) -> web.StreamResponse:
        name = server.bodies[-1]["tools"][0]["function"]["name"]
        pieces = [
            call_piece(0, "call_1", name, '{"expres'),
            call_piece(0, None, None, 'sion": "6*7"}'),
        ]
        return await stream([*map(chunk, pieces), chunk({}, "tool_calls")])(request)

    return reply


def slowly(*pieces: str) -> Reply:
    """Return a reply that gives its text in pieces, each after a moment."""

    async def reply(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for delta in [*({"content": piece} for piece in pieces), {}]:
            await asyncio.sleep(0.06)
            data = chunk(delta, None if delta else "stop")
            await response.write(f"data: {json.dumps(data)}\n\n".encode())
        await response.write(b"data: [DONE]\n\n")
        return response

    return reply


async def test_a_run_calls_a_tool_and_streams_its_answer(
    server: OpenAIServer, client: Client
) -> None:
    answer_with(server, calculates(server), slowly(*PIECES))
    run_id = await client.start("What is 6*7?", AGENT)
    deltas, events = [], []
    async for name, data in client.frames(f"/v1/runs/{run_id}/events?deltas=true"):
        if name == "agentos.delta":
            assert data["run_id"] == run_id
            deltas.append(data["text"])
        else:
            events.append(data["event"])
    run = await client.wait(run_id)
    assert run["status"] == "completed"
    assert run["output"]["text"] == "".join(PIECES)
    assert run["summary"]["tool_calls_total"] == 1
    assert run["summary"]["model_calls_total"] == 2
    assert len(deltas) > 1
    assert "".join(deltas) == "".join(PIECES)
    result = next(e for e in events if e["type"] == "agentos.tool.call.completed")
    assert result["payload"]["status"] == "ok"
    asked, told = server.bodies
    assert [m["role"] for m in asked["messages"]] == ["system", "user"]
    assert [m["role"] for m in told["messages"]] == ["system", "user", "assistant", "tool"]
    call, sent_back = told["messages"][-2]["tool_calls"][0], told["messages"][-1]
    assert json.loads(call["function"]["arguments"]) == {"expression": "6*7"}
    assert sent_back["tool_call_id"] == call["id"]
    assert "42" in sent_back["content"]
    assert server.headers[-1]["Authorization"] == f"Bearer {KEY}"


async def test_without_deltas_only_events_come(server: OpenAIServer, client: Client) -> None:
    answer_with(server, slowly(*PIECES))
    run_id = await client.start("hello", AGENT)
    names = {name async for name, _ in client.frames(f"/v1/runs/{run_id}/events")}
    assert names == {"agentos.event"}
    quiet = await client.start("hello", AGENT, run_options={"stream_events": False})
    names = {name async for name, _ in client.frames(f"/v1/runs/{quiet}/events?deltas=true")}
    assert names == {"agentos.event"}


async def test_create_and_stream_has_deltas(server: OpenAIServer, client: Client) -> None:
    answer_with(server, slowly(*PIECES))
    body = {"input": {"type": "text", "text": "hello"}}
    async with client.http.post(f"/v1/agents/{AGENT}/runs:stream", json=body) as answer:
        assert answer.status == 200
        run_id = answer.headers["X-Run-Id"]
        assert answer.headers["Location"] == f"/v1/runs/{run_id}"
        frames = [frame async for frame in client.read_frames(answer)]
    text = "".join(data["text"] for name, data in frames if name == "agentos.delta")
    assert text == "".join(PIECES)
    assert frames[-1][1]["event"]["type"] == "agentos.run.completed"


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (stream([chunk({"content": "The ans"})], cut=True), "provider_error"),
        (stream([chunk({"content": "The ans"})], done=False), "provider_error"),
        (status(401, f"Incorrect API key provided: {KEY}"), "provider_error"),
        (status(400, "no such thing"), "invalid_request"),
        (status(503, "overloaded"), "provider_error"),
        (abort, "dependency_unavailable"),
    ],
    ids=["dies mid-stream", "ends too early", "refuses the key", "400", "503", "hangs up"],
)
async def test_a_backend_that_fails_fails_the_run(
    server: OpenAIServer, client: Client, reply: Callable[[web.Request], Awaitable[Any]], code: str
) -> None:
    answer_with(server, reply)
    run_id = await client.start("hello", AGENT)
    run = await client.wait(run_id)
    assert run["status"] == "failed"
    assert run["error"]["code"] == code
    events = await client.events(run_id)
    completed = next(e for e in events if e["type"] == "agentos.model.completed")
    assert completed["payload"]["status"] == "error"
    assert KEY not in json.dumps([run, events])
    answer_with(server, text_stream("well"))
    assert (await client.wait(await client.start("again", AGENT)))["status"] == "completed"


async def test_cancel_closes_the_connection_at_once(server: OpenAIServer, client: Client) -> None:
    answer_with(server, hang)
    run_id = await client.start("hello", AGENT)
    async with asyncio.timeout(10):
        async for name, data in client.frames(f"/v1/runs/{run_id}/events?deltas=true"):
            if name == "agentos.delta":
                assert data["text"] == "begin "
                break
    began = time.monotonic()
    code, answer = await client.cancel(run_id)
    assert (code, answer["run"]["status"]) == (200, "canceled")
    await asyncio.wait_for(server.left.wait(), 1)
    assert time.monotonic() - began < 1
    events = await client.events(run_id)
    assert [e["type"] for e in events][-2:] == [
        "agentos.run.cancel_requested",
        "agentos.run.canceled",
    ]


async def test_the_key_is_nowhere(node: RealNode, client: Client) -> None:
    """Not in the log's files, the read model, a process's log, a report, or what was shown."""
    listed = await client.ask("GET", "/v1/runs?limit=200")
    assert KEY not in json.dumps(listed)
    assert KEY not in node.log_text()
    await asyncio.to_thread(node.down)
    found = [
        path
        for path in node.directory.rglob("*")
        if path.is_file() and KEY.encode() in path.read_bytes()
    ]
    assert found == []
