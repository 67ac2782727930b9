"""An executor is killed with runs in flight; its supervisor starts it again; all runs finish."""

import asyncio
import os
import signal
import time
from collections import Counter
from dataclasses import dataclass, field

import aiohttp

from agentos.domain.aggregate import read_events
from agentos.domain.run.events import (
    FINAL_TYPES,
    RUN_EVENTS,
    ModelCompleted,
    RunCompleted,
    RunStarted,
    ToolCallCompleted,
)
from agentos.domain.run.run import run_ref
from agentos.infra.jetstream.log import JetStreamLog
from tests.bench.node import SCRIPTED, TENANT
from tests.bench.plan import Plan
from tests.bench.stats import AT_MOST, Figure, Goal
from tests.bench.up_node import UpNode, up_node

IN_FLIGHT = 200
TOOLS = 9
MODELS = TOOLS + 1
# Ten model calls of 100 ms with a tool call after each but the last.
SCRIPT = "\n".join(["sleep 100", "calculate 6*7"] * TOOLS + ["sleep 100"])
KILL_AFTER_S = 0.5


@dataclass
class Trial:
    """What one kill came to. Times are seconds behind the kill."""

    finished: float = 0.0
    first_resumed: float = 0.0
    last_resumed: float = 0.0
    taken_over: float = 0.0
    calls: Counter[str] = field(default_factory=Counter)


async def resume(plan: Plan) -> list[Figure]:
    """Measure from the `kill -9` to the end of the last run, and count what was done twice."""
    trials = []
    async with up_node() as node:
        await node.up()
        await node.prepare()
        for number in range(plan.repeats):
            trials.append(await _trial(node, number))
    repeated = sum(
        trial.calls["models finished"]
        - IN_FLIGHT * MODELS
        + trial.calls["tools finished"]
        - IN_FLIGHT * TOOLS
        for trial in trials
    )
    return [
        Figure(
            "resume",
            f"{IN_FLIGHT} runs in flight, executor killed: until all are finished",
            "s",
            [trial.finished for trial in trials],
            Goal(AT_MOST, 5.0),
            note=f"runs of {MODELS} model steps of 100 ms and {TOOLS} tool steps, killed "
            f"{KILL_AFTER_S} s after the last was accepted; `agentos up`'s supervisor restarts it",
        ),
        Figure("resume", "until the first was taken over", "s", [t.first_resumed for t in trials]),
        Figure("resume", "until the last was taken over", "s", [t.last_resumed for t in trials]),
        Figure(
            "resume",
            "finished steps repeated, all trials",
            "",
            [float(repeated)],
            Goal(AT_MOST, 0.0, "0"),
        ),
        Figure("resume", "runs that were taken over, a trial", "", [t.taken_over for t in trials]),
    ]


async def _trial(node: UpNode, number: int) -> Trial:
    trial = Trial()
    async with node.log() as log:
        head = await log.head()
        executor = (await node.pids())["executor"]
        names = await _start(node, number)
        await asyncio.sleep(KILL_AFTER_S)
        os.kill(executor, signal.SIGKILL)
        killed = time.monotonic()
        await asyncio.wait_for(_follow(log, head, set(names), trial, killed), 60)
        for name in names:
            trial.calls += await _count(log, name)
    return trial


async def _start(node: UpNode, number: int) -> list[str]:
    headers = {"Authorization": node.authorization}
    gate = asyncio.Semaphore(32)
    async with aiohttp.ClientSession(headers=headers) as http:

        async def one(index: int) -> str:
            url = f"http://127.0.0.1:{node.port}/v1/agents/{SCRIPTED}/runs"
            key = f"resume-{number}-{index}"
            body = {"input": {"type": "text", "text": SCRIPT}, "idempotency_key": key}
            async with gate, http.post(url, json=body) as answer:
                answer.raise_for_status()
                run_id: str = (await answer.json())["run"]["run_id"]
                return run_id

        return list(await asyncio.gather(*(one(index) for index in range(IN_FLIGHT))))


async def _follow(
    log: JetStreamLog, after: int, names: set[str], trial: Trial, killed: float
) -> None:
    """Read the log until all runs are final, noting when they were taken over and finished."""
    left, seen = set(names), Counter[str]()
    async for batch in log.tail(after=after, kinds=("run",)):
        now = time.monotonic() - killed
        for record in batch.records:
            name = record.ref.aggregate_id
            if RunStarted.TYPE in record.types and name in names:
                seen[name] += 1
                if seen[name] == 2:
                    trial.first_resumed = trial.first_resumed or now
                    trial.last_resumed = now
                    trial.taken_over += 1
            if FINAL_TYPES & set(record.types):
                left.discard(name)
        if not left:
            trial.finished = now
            return


async def _count(log: JetStreamLog, name: str) -> Counter[str]:
    """Count one run's calls in its events; it must have completed."""
    kinds = {
        ModelCompleted: "models finished",
        ToolCallCompleted: "tools finished",
    }
    calls: Counter[str] = Counter()
    final = ""
    for record in await log.read(run_ref(TENANT, name)):
        for event in read_events(record, RUN_EVENTS):
            final = event.type
            if kind := kinds.get(type(event.payload)):
                calls[kind] += 1
    if final != RunCompleted.TYPE:
        raise ValueError(f"{name} ended with {final}")
    return calls
