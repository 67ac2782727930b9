"""What a run costs as the log grows, and how a node restarts on a long log."""

import asyncio
from dataclasses import dataclass, field
from statistics import median

from agentos.infra.jetstream.log import JetStreamLog
from tests.bench.history import History, Template, newest_run, take_template
from tests.bench.machine import cpu_seconds, rss_mb
from tests.bench.node import TENANT
from tests.bench.plan import Plan
from tests.bench.stats import AT_MOST, Figure, Goal, percentile
from tests.bench.up_node import UpNode, up_node

SAMPLE = 500
CLIENTS = 8
FLAT = 1.2
SETTLE_S = 12.0  # the broker drops what it has read from its caches by then


@dataclass
class Stage:
    """What was measured with so many runs in the log."""

    runs: int
    cpu_ms: list[float] = field(default_factory=list)
    alone_ms: list[float] = field(default_factory=list)
    broker_mb: float = 0.0


class Grower:
    """A node whose log is made longer between measurements."""

    def __init__(self, node: UpNode, plan: Plan) -> None:
        self._node, self._plan = node, plan
        self._template: Template
        self._laid = 0

    async def begin(self) -> None:
        """Start the node and take the template of its history."""
        await self._node.up()
        await self._node.prepare()
        async with self._node.log() as log:
            self._template = await take_template(log, TENANT, await newest_run(log, TENANT))

    async def grow_to(self, runs: int) -> None:
        """Lay history until so many runs are in the log, and have the node caught up with it."""
        await self._node.down()

        async def work(log: JetStreamLog) -> None:
            await History(log, TENANT, self._template).lay(runs - self._laid)

        if runs > self._laid:
            await self._node.without_fsync(work)
            self._laid = runs
        await self._node.up()
        await self._node.projected(within=1800)

    async def measure(self) -> Stage:
        """Measure processor time and latency of a run; the load generator's time not counted."""
        stage = Stage(self._laid)
        pids = await self._node.pids()
        await asyncio.sleep(SETTLE_S)
        stage.broker_mb = rss_mb(pids["nats"])
        await self._node.load("whole", tag=f"w{self._laid}", clients=CLIENTS, count=SAMPLE)
        for trial in range(self._plan.repeats):
            tag = f"g{self._laid}-{trial}"
            before = sum(cpu_seconds(pids).values())
            await self._node.load("whole", tag=tag, clients=CLIENTS, count=SAMPLE)
            await self._node.projected(within=60)
            after = sum(cpu_seconds(pids).values())
            stage.cpu_ms.append((after - before) / SAMPLE * 1000)
            alone = await self._node.load("stream", tag=f"a{tag}", clients=1, count=100)
            stage.alone_ms.append(percentile(alone.latencies, 0.5) * 1000)
        return stage

    @property
    def events_a_run(self) -> int:
        """How many events a run of the history has."""
        return self._template.events


async def growth(plan: Plan) -> list[Figure]:
    """Measure runs at several lengths of the log, then restarts on the longest."""
    async with up_node() as node:
        grower = Grower(node, plan)
        await grower.begin()
        stages = []
        for runs in plan.history:
            await grower.grow_to(runs)
            stages.append(await grower.measure())
        await grower.grow_to(max(plan.history[-1], plan.restart_events // grower.events_a_run))
        restarts = []
        for _ in range(3):
            await node.down()
            restarts.append(await node.up())
    return [*_costs(stages), _restart(plan, restarts), _broker(stages)]


def _costs(stages: list[Stage]) -> list[Figure]:
    figures = []
    first, last = stages[0], stages[-1]
    for stage in stages:
        name = f"processor time of all processes for a run, {stage.runs:,} in the log"
        figures.append(Figure("growth", name, "ms", stage.cpu_ms))
    for name, get in (("processor time", "cpu_ms"), ("latency alone", "alone_ms")):
        ratio = median(getattr(last, get)) / median(getattr(first, get))
        figures.append(
            Figure(
                "growth",
                f"{name} of a run at {last.runs:,} over {first.runs:,}",
                "times",
                [ratio],
                Goal(AT_MOST, FLAT, f"flat (≤ {FLAT})"),
            )
        )
    for stage in stages:
        name = f"a run alone to its last SSE event, p50, {stage.runs:,} in the log"
        figures.append(Figure("growth", name, "ms", stage.alone_ms))
    return figures


def _restart(plan: Plan, restarts: list[float]) -> Figure:
    name = f"restart (`agentos up`) with {plan.restart_events:,} events in the log"
    return Figure("growth", name, "s", restarts, Goal(AT_MOST, 6.0))


def _broker(stages: list[Stage]) -> Figure:
    first, last = stages[0], stages[-1]
    per_run = (last.broker_mb - first.broker_mb) / (last.runs - first.runs)
    note = ", ".join(f"{stage.broker_mb:.0f} MiB at {stage.runs:,}" for stage in stages)
    return Figure("growth", "broker memory a million runs", "MiB", [per_run * 1e6], note=note)
