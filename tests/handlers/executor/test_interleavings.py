"""Whatever happens, in whatever order: one end, nothing behind it, nothing done twice."""

import asyncio
import random
from collections import Counter
from collections.abc import Coroutine
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentos.domain.aggregate import read_events
from agentos.domain.errors import AgentOSError
from agentos.domain.log import Commit
from agentos.domain.run.events import FINAL_TYPES
from agentos.domain.run.run import Run, run_ref
from agentos.handlers.sweep import sweep_for_ever
from tests.handlers.executor.world import Executor, Models, Tool, Tools, now, until_final
from tests.handlers.node import Node, UnevenLog, a_node, cancel, create, settle
from tests.handlers.virtual import run_virtual

RUNS = 3
TOOLS = ("tool.once", "tool.check", "tool.often")
Happening = tuple[float, str, int]
HAPPENINGS = st.lists(
    st.tuples(
        st.floats(0, 6),
        st.sampled_from(["cancel", "kill", "cut", "mend", "mute", "speak", "stale"]),
        st.integers(0, 9),
    ),
    max_size=8,
)


def make_tools() -> Tools:
    return Tools(
        {
            "tool.once": Tool("at_most_once", takes_s=0.7),
            "tool.check": Tool("check", takes_s=0.4),
            "tool.often": Tool("idempotent", takes_s=1.3),
        }
    )


async def story(seed: int, fail_rate: float, happenings: list[Happening]) -> None:
    chance = random.Random(seed)
    log = UnevenLog(seed, longest_s=0.02)

    def fail(commit: Commit) -> str | None:
        if chance.random() < fail_rate and now() < 1010:
            return chance.choice(["before", "after"])
        return None

    async with a_node(log) as node:
        await node.tenant(max_concurrent_runs=RUNS)
        parts = await node.handlers()
        node.own(sweep_for_ever(parts))
        models, tools = Models([*TOOLS], ["tool.once"], "bye", takes_s=0.3), make_tools()
        executors = [Executor(node, models, tools, name=f"wrk_{n}") for n in range(2)]
        run_ids = [(await create(parts, key=f"k{n}"))["run"]["run_id"] for n in range(RUNS)]
        log.fail = fail
        began = now()
        for at, what, which in sorted(happenings):
            await asyncio.sleep(max(0.0, began + at - now()))
            await happen(node, executors, run_ids, what, which)
            if what == "cancel":
                node.own(quietly_cancel(node, parts, run_ids[which % RUNS]))
        await asyncio.sleep(max(0.0, began + 7 - now()))
        for executor in executors:
            executor.line.silent = executor.task.done()
            if not executor.task.done():
                executor.line.up.set()
        executors.append(Executor(node, models, tools, name="wrk_last"))
        for run_id in run_ids:
            await until_final(node, run_id, 120)
        await settle(12)
        for run_id in run_ids:
            await check_run(node, run_id, models, tools)
        assert (await node.admission()).active == {}
        assert await node.most_active() <= RUNS
        assert await node.queue.size() == 0
        assert parts.watch.runs == {}
        assert all(not e.worker._running for e in executors if not e.task.done())


async def happen(
    node: Node, executors: list[Executor], run_ids: list[str], what: str, which: int
) -> None:
    executor = executors[which % 2]
    line = executor.line
    if what == "kill":
        await executor.kill()
        executors[which % 2] = Executor(
            node, executor.models, executor.tools, name=node.new_id("wrk")
        )
    elif what == "cut":
        line.up.clear()
        line.silent = True
    elif what == "mend":
        line.up.set()
        line.silent = False
    elif what in ("mute", "speak"):
        line.silent = what == "mute"
    elif what == "stale":
        ref = run_ref("tnt_a", run_ids[which % RUNS])
        if last := await node.log.last(ref):
            from agentos.domain.ports import WorkItem

            await node.queue.put(WorkItem(ref, max(1, last.position - which)))


async def quietly_cancel(node: Node, parts: object, run_id: str) -> None:
    try:
        await cancel(parts, run_id)  # type: ignore[arg-type]  # Parts
    except AgentOSError:
        return


async def check_run(node: Node, run_id: str, models: Models, tools: Tools) -> None:
    records = await node.log.read(run_ref("tnt_a", run_id))
    events = [e for r in records for e in read_events(r, Run.PAYLOADS)]
    assert [e.sequence for e in events] == list(range(1, len(events) + 1))
    finals = [n for n, e in enumerate(events) if e.type in FINAL_TYPES]
    assert finals == [len(events) - 1], "one final event, and nothing behind it"
    ended = Counter(
        e.payload.model_dump().get("tool_call_id") or e.payload.model_dump().get("request_id")
        for e in events
        if e.type in ("agentos.tool.call.completed", "agentos.model.completed")
    )
    assert all(times == 1 for times in ended.values()), "a result is written once"
    asked = {
        e.payload.model_dump()["tool_call_id"]: e.payload.model_dump()["tool_id"]
        for e in events
        if e.type == "agentos.tool.call.requested"
    }
    times = tools.times()
    for call_id, tool_id in asked.items():
        if tool_id == "tool.once":
            assert times.get(call_id, 0) <= 1, "at most once"
    run = Run(run_ref("tnt_a", run_id)).fold(records)
    assert run.status in ("completed", "failed", "canceled")
    if run.status == "failed":
        assert run.error is not None
        assert run.error.code == "interrupted"
    if run.status == "completed":
        assert run.output is not None
        assert run.output.text == "bye"
        assert set(times) >= set(asked)


@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.1, 0.4]), HAPPENINGS)
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
def test_any_interleaving_ends_well(
    seed: int, fail_rate: float, happenings: list[Happening]
) -> None:
    run_virtual(in_time(story(seed, fail_rate, happenings)))


async def in_time(story: Coroutine[Any, Any, None]) -> None:
    """Tell it to its end, or say that it has none."""
    async with asyncio.timeout(600):
        await story
