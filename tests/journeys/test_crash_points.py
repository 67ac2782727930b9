"""An executor dies at every named point; what must hold is checked after each."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.journeys.mini_node import MiniNode

POINTS = [
    "executor.before_started",
    "executor.after_started",
    "executor.after_model",
    "executor.before_result",
    "executor.before_result:2",
    "executor.after_tool",
    "executor.after_tool:2",
    "executor.after_append",
    "executor.after_append:2",
    "executor.after_append:3",
]
SCRIPT = (
    'call tool.probe.idempotent {"sleep_ms": 10}\n'
    "between\n"
    'call tool.probe.idempotent {"sleep_ms": 10}\n'
    "calculate 6 * 7"
)


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def shared_node() -> AsyncIterator[MiniNode]:
    """A node without an executor, and an agent with probes."""
    node = MiniNode()
    await node.open("gateway", "handlers", "projector")
    await node.gateway_up()
    await node.register("agt_probe", tools=[*PROBES, "tool.calculate"])
    yield node
    await node.close()


@pytest.fixture
def node(shared_node: MiniNode) -> Iterator[MiniNode]:
    """The node; each test starts the executors that it needs."""
    yield shared_node
    if "executor" in shared_node.processes:
        shared_node.kill("executor")


PROBES = ["tool.probe.idempotent", "tool.probe.check", "tool.probe.once"]


def calls_made(node: MiniNode) -> Counter[str]:
    """Return how often each call was really made, by its idempotency key."""
    made: Counter[str] = Counter()
    for path in Path(node.directory).glob("*.calls"):
        made.update(path.read_text().split())
    return made


def check_invariants(events: list[dict[str, Any]]) -> None:
    """One final event and nothing after it, no gap, and no call with two results."""
    assert [e["sequence"] for e in events] == list(range(1, len(events) + 1))
    finals = [
        e
        for e in events
        if e["payload"].get("status") in ("completed", "failed") and e["step_id"] is None
    ]
    assert finals == events[-1:]
    results = Counter(
        e["payload"].get("tool_call_id") or e["payload"].get("request_id")
        for e in events
        if e["type"] in ("agentos.tool.call.completed", "agentos.model.completed")
    )
    assert set(results.values()) == {1}
    attempts = [e["payload"]["attempt"] for e in events if e["type"] == "agentos.run.started"]
    assert attempts == list(range(1, len(attempts) + 1))


@pytest.mark.parametrize("point", POINTS)
async def test_a_run_survives_its_executor(node: MiniNode, point: str) -> None:
    node.start("executor", AGENTOS_CRASH_POINT=point)
    status, body = await node.post_run(SCRIPT, agent="agt_probe")
    assert status == 201
    await node.died("executor")
    before = calls_made(node)
    node.start("executor")
    run = await node.finished(body["run"]["run_id"])
    assert run["status"] == "completed", run
    assert "42" in run["output"]["text"]
    events = await node.events(run["run_id"])
    check_invariants(events)
    finished_before = {
        e["payload"]["tool_call_id"]
        for e in _before_last_start(events)
        if e["type"] == "agentos.tool.call.completed"
    }
    made = calls_made(node)
    assert all(made[key] == before[key] for key in finished_before & set(made))


def _before_last_start(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    last = max(i for i, e in enumerate(events) if e["type"] == "agentos.run.started")
    return events[:last]


async def test_a_call_that_must_not_repeat_interrupts_the_run(node: MiniNode) -> None:
    before = calls_made(node)
    node.start("executor", AGENTOS_CRASH_POINT="executor.after_tool")
    _, body = await node.post_run("call tool.probe.once {}", agent="agt_probe")
    await node.died("executor")
    node.start("executor")
    run = await node.finished(body["run"]["run_id"])
    assert run["status"] == "failed"
    assert run["error"]["code"] == "interrupted"
    assert len(calls_made(node)) == len(before) + 1


async def test_a_call_that_can_be_checked_is_not_made_twice(node: MiniNode) -> None:
    before = calls_made(node)
    node.start("executor", AGENTOS_CRASH_POINT="executor.after_tool")
    _, body = await node.post_run("call tool.probe.check {}", agent="agt_probe")
    await node.died("executor")
    node.start("executor")
    run = await node.finished(body["run"]["run_id"])
    assert run["status"] == "completed", run
    made = calls_made(node)
    assert [made[key] for key in made.keys() - before.keys()] == [1]


async def test_a_handler_that_dies_keeps_slots_and_keys_right(node: MiniNode) -> None:
    for point in ("handlers.after_reserved", "handlers.after_created"):
        node.kill("handlers")
        node.start("handlers", AGENTOS_CRASH_POINT=point)
        await node.handlers_up()
        asked = asyncio.create_task(node.post_run("hello", idempotency_key=point))
        await node.died("handlers")
        node.start("handlers")
        status, _ = await asked
        assert status in (503, 504)
        node.start("executor")
        status, body = await node.post_run_until_accepted("hello", idempotency_key=point)
        run = await node.finished(body["run"]["run_id"])
        assert run["status"] == "completed"
        check_invariants(await node.events(run["run_id"]))
        node.kill("executor")
