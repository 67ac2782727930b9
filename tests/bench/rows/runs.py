"""Whole runs: from POST to `run.completed` seen, and to the read models."""

from tests.bench.machine import Meter
from tests.bench.node import SCRIPTED, Node, running
from tests.bench.plan import Plan
from tests.bench.stats import AT_LEAST, AT_MOST, Figure, Floor, Goal, by_process, percentile

# A model call, a tool call, a model call: three steps, as the peers' runs have.
THREE_STEPS = {"input": {"type": "text", "text": "calculate 6*7"}}


async def runs(plan: Plan) -> list[Figure]:
    """Measure echo runs at 32 clients and alone, and runs of three steps beside them."""
    async with running() as node:
        await node.load("whole", tag="warm", clients=32, count=300)
        meter = Meter()
        seen, projected, slow = await _many(node, plan, meter)
        alone = await _alone(node, plan)
        three = await _three(node, plan)
    flight, _, p50 = await plan.appends()
    return [
        Figure(
            "runs",
            "whole echo runs finished, seen by their client and projected, 32 clients",
            "/s",
            projected,
            Goal(AT_LEAST, 1_000.0),
            [Floor("bare JetStream append, fsync, 200 in flight", tuple(flight))],
            "seen through `GET …/wait`; the time ends when the read models hold the last of them; "
            + by_process(meter.seconds, plan.repeats * _count(plan)),
        ),
        Figure("runs", "the same, until its client has seen the last one", "/s", seen),
        Figure("runs", "the same, POST to completed seen, p99", "ms", slow),
        Figure(
            "runs",
            "one echo run alone, POST to its last SSE event, p50",
            "ms",
            alone,
            Goal(AT_MOST, 6.0),
            [Floor("bare JetStream append, fsync", tuple(p50))],
            "through `runs:stream`; such a run has three commits, one after the other",
        ),
        Figure("runs", "runs of three steps (model, tool, model), 32 clients", "/s", three),
    ]


async def _many(
    node: Node, plan: Plan, meter: Meter
) -> tuple[list[float], list[float], list[float]]:
    seen, projected, slow = [], [], []
    count = _count(plan)
    for trial in range(plan.repeats):
        meter.start(node.pids())
        outcome = await node.load("whole", tag=f"whole{trial}", clients=32, count=count)
        until = await node.projected()
        meter.stop(node.pids())
        seen.append(outcome.rate)
        projected.append(count / (until - outcome.began))
        slow.append(percentile(outcome.latencies, 0.99) * 1000)
    return seen, projected, slow


def _count(plan: Plan) -> int:
    return 1_000 if plan.quick else 4_000


async def _alone(node: Node, plan: Plan) -> list[float]:
    values = []
    for trial in range(plan.repeats):
        outcome = await node.load("stream", tag=f"alone{trial}", clients=1, count=200)
        values.append(percentile(outcome.latencies, 0.5) * 1000)
    return values


async def _three(node: Node, plan: Plan) -> list[float]:
    values = []
    for trial in range(plan.repeats):
        outcome = await node.load(
            "whole",
            tag=f"three{trial}",
            body=THREE_STEPS,
            agent=SCRIPTED,
            clients=32,
            count=500 if plan.quick else 1_500,
        )
        values.append(outcome.rate)
    return values
