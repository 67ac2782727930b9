"""Runs are stopped, limited, put in order and shared, on a real node with two executors."""

import asyncio
import json
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any, Final

import pytest
from aiohttp import web

from tests.journeys.real_node import Client, RealNode, eventually, real_node

pytestmark = [pytest.mark.slow, pytest.mark.timeout(150)]

AGENT: Final = "agt_limits"
PROBE: Final = "tool.probe.idempotent"
TOOLS: Final = [PROBE, "tool.calculate", "tool.http.fetch", "tool.echo"]
AT_ONCE_S: Final = 1.5
STEPS: Final = "\nthen\n".join(f'call {PROBE} {{"sleep_ms": 100}}' for _ in range(6))


@pytest.fixture(scope="module")
def node() -> Iterator[RealNode]:
    settings = {
        "AGENTOS_EXECUTOR_PROCESSES": "2",
        "AGENTOS_HTTP_FETCH_ALLOWLIST": "127.0.0.1:*",
        "AGENTOS_HTTP_FETCH_ALLOW_PRIVATE": "1",
    }
    with real_node(**settings) as node:
        asyncio.run(register(node))
        yield node


@pytest.fixture(scope="module")
def one_slot() -> Iterator[RealNode]:
    with real_node(AGENTOS_EXECUTOR_SLOTS="1") as node:
        asyncio.run(register(node))
        yield node


async def register(node: RealNode) -> None:
    """Register the scripted agent with every tool that is used here."""
    async with node.client() as client:
        await client.register(AGENT, tools=TOOLS)
        await client.register("agt_sleep", model_ref="builtin/sleep")


@pytest.fixture
async def client(node: RealNode) -> AsyncIterator[Client]:
    async with node.client() as client:
        yield client


async def canceled(client: Client, run_id: str) -> list[str]:
    """Cancel a run, which takes no time, and return the types of its events."""
    began = time.monotonic()
    status, answer = await client.cancel(run_id)
    assert (status, answer["run"]["status"]) == (200, "canceled")
    assert time.monotonic() - began < AT_ONCE_S
    status, answer = await client.cancel(run_id)
    assert (status, answer["error"]["code"]) == (409, "invalid_state_transition")
    assert answer["error"]["details"]["status"] == "canceled"
    types = [e["type"] for e in await client.events(run_id)]
    assert types[-1] == "agentos.run.canceled"
    behind = types[types.index("agentos.run.cancel_requested") :]
    # What had ended beside it may be noted with the end; nothing begins any more.
    assert not [name for name in behind if name.endswith((".requested", ".started"))]
    return types


@pytest.mark.parametrize("agent", ["agt_sleep", AGENT])
async def test_cancel_of_a_sleeping_model(client: Client, agent: str) -> None:
    run_id = await client.start("sleep 60000", agent)
    await client.seen(run_id, "agentos.model.requested")
    assert "agentos.model.completed" not in await canceled(client, run_id)


class SlowServer:
    """A local HTTP server that never answers, and knows when a client came and left."""

    def __init__(self) -> None:
        self.came, self.left = asyncio.Event(), asyncio.Event()
        self.url = ""

    async def handle(self, request: web.Request) -> web.Response:
        """Keep the caller waiting."""
        self.came.set()
        try:
            await asyncio.sleep(60)
        finally:
            self.left.set()
        return web.Response()


@asynccontextmanager
async def slow_server() -> AsyncIterator[SlowServer]:
    """Run the server on a free port."""
    server = SlowServer()
    app = web.Application()
    app.router.add_get("/", server.handle)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
    try:
        yield server
    finally:
        await runner.cleanup()


async def test_cancel_of_a_tool_in_flight_closes_its_connection(client: Client) -> None:
    async with slow_server() as server:
        call = json.dumps({"url": server.url})
        run_id = await client.start(f"call tool.http.fetch {call}\ncalculate 1", AGENT)
        await asyncio.wait_for(server.came.wait(), 10)
        types = await canceled(client, run_id)
        await asyncio.wait_for(server.left.wait(), 1)
    assert types.count("agentos.tool.call.requested") == 2  # side by side: the other was quick
    assert types.count("agentos.model.requested") == 1


async def test_cancel_by_key_is_repeatable(client: Client) -> None:
    run_id = await client.start("sleep 60000", AGENT)
    for _ in range(2):
        status, answer = await client.ask(
            "POST", f"/v1/runs/{run_id}:cancel", headers={"Idempotency-Key": "once"}
        )
        assert (status, answer["run"]["status"]) == (200, "canceled")


async def test_many_cancels_at_once_stop_it_once(client: Client) -> None:
    run_id = await client.start("sleep 60000", AGENT)
    answers = await asyncio.gather(*(client.cancel(run_id) for _ in range(20)))
    assert {status for status, _ in answers} <= {200, 409}
    assert 200 in {status for status, _ in answers}
    types = Counter(e["type"] for e in await client.events(run_id))
    assert types["agentos.run.cancel_requested"] == types["agentos.run.canceled"] == 1


async def test_the_time_limit_of_a_run(client: Client) -> None:
    for text in ("sleep 60000", f'call {PROBE} {{"sleep_ms": 60000}}'):
        began = time.monotonic()
        run = await client.wait(await client.start(text, AGENT, run_options={"timeout_ms": 400}))
        assert (run["status"], run["error"]["code"]) == ("failed", "timeout")
        assert time.monotonic() - began < 3


async def test_max_steps(client: Client) -> None:
    text = "calculate 1\nthen\ncalculate 2\nthen\ncalculate 3"
    run_id = await client.start(text, AGENT, run_options={"max_steps": 3})
    run = await client.wait(run_id)
    assert (run["status"], run["error"]["code"]) == ("failed", "max_steps")
    assert run["summary"]["steps_total"] <= 3 + 1
    enough = await client.wait(await client.start(text, AGENT, run_options={"max_steps": 7}))
    assert enough["status"] == "completed"
    assert enough["summary"]["steps_total"] == 7


async def test_a_dry_run_calls_nothing(client: Client) -> None:
    run_id = await client.start("fail provider_error", AGENT, run_options={"dry_run": True})
    run = await client.wait(run_id)
    assert (run["status"], run["output"], run["error"]) == ("completed", None, None)
    types = {e["type"] for e in await client.events(run_id)}
    assert not types & {"agentos.model.requested", "agentos.tool.call.requested"}


@pytest.mark.parametrize(
    "tooling", [{"tool_denymap": ["tool.calculate"]}, {"tool_allowlist": ["tool.echo"]}]
)
async def test_a_denied_tool_is_not_called_and_the_run_goes_on(
    client: Client, tooling: dict[str, Any]
) -> None:
    run_id = await client.start("calculate 6*7\nend", AGENT, tooling=tooling)
    run = await client.wait(run_id)
    assert run["status"] == "completed"
    assert "forbidden" in run["output"]["text"]
    events = await client.events(run_id)
    done = next(e["payload"] for e in events if e["type"] == "agentos.tool.call.completed")
    assert (done["status"], done["error"]["code"]) == ("error", "forbidden")


async def test_queued_runs_are_canceled_while_the_executor_stands_still(
    one_slot: RealNode,
) -> None:
    pid = one_slot.pids()["executor"]
    async with one_slot.client() as client:
        os.kill(pid, signal.SIGSTOP)
        try:
            runs = [await client.start("hello", AGENT) for _ in range(5)]
            for run_id in runs:
                assert (await client.wait(run_id, 0))["status"] == "queued"
                types = await canceled(client, run_id)
                assert types == [
                    "agentos.run.created",
                    "agentos.run.cancel_requested",
                    "agentos.run.canceled",
                ]
        finally:
            os.kill(pid, signal.SIGCONT)
        assert (await client.wait(await client.start("hello", AGENT)))["status"] == "completed"
        for run_id in runs:
            assert len(await client.events(run_id)) == 3


async def test_one_slot_is_given_by_priority(one_slot: RealNode) -> None:
    async with one_slot.client() as client:
        first = await client.start("sleep 1500", AGENT)
        await client.seen(first, "agentos.run.started")
        asked = ["low", "normal", "high", "low", "high", "normal"]
        runs = [
            await client.start("sleep 20", AGENT, run_options={"priority": name}) for name in asked
        ]
        waiting = await client.start("hello", AGENT, run_options={"priority": "low"})
        await canceled(client, waiting)
        assert (await client.wait(runs[-1], 0))["status"] == "queued"
        done = await asyncio.gather(*(client.wait(run_id) for run_id in runs))
        assert {run["status"] for run in done} == {"completed"}
        started = sorted(range(6), key=lambda i: str(done[i]["started_at"]))
        assert [asked[i] for i in started] == ["high", "high", "normal", "normal", "low", "low"]
        assert started == [2, 4, 1, 5, 0, 3]
        ends = sorted((run["started_at"], run["completed_at"]) for run in done)
        for (_, end), (begin, _) in pairwise(ends):
            assert end <= begin


async def test_two_executors_share_the_work(client: Client) -> None:
    runs = [await client.start("sleep 300", AGENT) for _ in range(60)]
    workers: Counter[str] = Counter()
    for run_id in runs:
        assert (await client.wait(run_id))["status"] == "completed"
        started = [e for e in await client.events(run_id) if e["type"] == "agentos.run.started"]
        assert len(started) == 1
        workers[started[0]["payload"]["worker_id"]] += 1
    assert len(workers) == 2, workers
    assert min(workers.values()) >= 5, workers


async def test_an_executor_dies_with_two_hundred_runs_in_flight(
    node: RealNode, client: Client
) -> None:
    """All finish, and no step that had finished is done again."""
    calls = node.directory / "idempotent.calls"
    calls.write_text("")
    pid = node.pids()["executor-1"]
    runs = await asyncio.gather(*(client.start(STEPS, AGENT) for _ in range(200)))
    await eventually(lambda: calls.read_text().count("\n") >= 200, 20, "all are in their steps")
    began = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    done = await asyncio.gather(*(client.wait(run_id) for run_id in runs))
    took = time.monotonic() - began
    assert {run["status"] for run in done} == {"completed"}
    made = Counter(calls.read_text().split())
    resumed = 0
    for run_id in runs:
        resumed += check_resumed(await client.events(run_id), made)
    print(json.dumps({"executor killed, 200 runs": {"seconds": took, "resumed": resumed}}))
    assert resumed > 20
    assert took < 20


def check_resumed(events: list[dict[str, Any]], made: Counter[str]) -> bool:
    """Each call has one result; only what was in hand at a takeover may have been made twice."""
    assert [e["sequence"] for e in events] == list(range(1, len(events) + 1))
    results = [
        e["payload"]["tool_call_id"] for e in events if e["type"] == "agentos.tool.call.completed"
    ]
    assert len(results) == len(set(results)) == STEPS.count(PROBE)
    open_calls: set[str] = set()
    repeatable: Counter[str] = Counter()
    for event in events:
        match event["type"]:
            case "agentos.tool.call.requested":
                open_calls.add(event["payload"]["tool_call_id"])
            case "agentos.tool.call.completed":
                open_calls.discard(event["payload"]["tool_call_id"])
            case "agentos.run.started":
                repeatable.update(open_calls)
    for call in results:
        assert 1 <= made[call] <= 1 + repeatable[call], (call, made[call], repeatable[call])
    return len([e for e in events if e["type"] == "agentos.run.started"]) > 1


async def test_an_executor_that_stood_still_finds_its_runs_gone(
    node: RealNode, client: Client
) -> None:
    """Frozen for longer than its lease: another takes over, and the frozen one writes nothing."""
    runs = [await client.start(STEPS, AGENT) for _ in range(20)]
    for run_id in runs:
        await client.seen(run_id, "agentos.run.started")
    pid = node.pids()["executor-2"]
    os.kill(pid, signal.SIGSTOP)
    try:
        done = await asyncio.gather(*(client.wait(run_id) for run_id in runs))
    finally:
        os.kill(pid, signal.SIGCONT)
    assert {run["status"] for run in done} == {"completed"}
    await asyncio.sleep(1)  # time for the one that wakes to do harm
    for run_id in runs:
        events = await client.events(run_id)
        assert events[-1]["type"] == "agentos.run.completed"
        results = Counter(
            e["payload"]["tool_call_id"]
            for e in events
            if e["type"] == "agentos.tool.call.completed"
        )
        assert set(results.values()) == {1}
    assert node.status()["state"] == "ready"
