"""Runs accepted: identity, quota, idempotency, durable log; nobody executes them."""

from statistics import median

from tests.bench.machine import Meter
from tests.bench.node import running
from tests.bench.plan import Plan
from tests.bench.stats import AT_LEAST, AT_MOST, Figure, Floor, Goal, by_process, percentile

GOAL = 2_500.0
SHARE_OF_APPENDS = 0.35
# A tenant may have 100,000 runs waiting; more are refused, which is not what is measured here.
MAX_SECONDS = 4.0


async def accept(plan: Plan) -> list[Figure]:
    """Measure `POST …/runs` to its 201, 32 clients and one alone."""
    rates, slow, alone, meter, accepted = [], [], [], Meter(), 0
    async with running("handlers", "projector", "gateway") as node:
        await node.load("post", tag="warm", clients=32, seconds=1.0)
        for trial in range(plan.repeats):
            meter.start(node.pids())
            outcome = await node.load(
                "post", tag=f"many{trial}", clients=32, seconds=min(plan.seconds, MAX_SECONDS)
            )
            meter.stop(node.pids())
            accepted += len(outcome.latencies)
            rates.append(outcome.rate)
            slow.append(percentile(outcome.latencies, 0.99) * 1000)
            single = await node.load("post", tag=f"alone{trial}", clients=1, count=500)
            alone.append(percentile(single.latencies, 0.5) * 1000)
            await plan.sample_floors()
    echo_rate, echo_alone = await plan.echo()
    flight, serial, serial_p50 = await plan.appends()
    # A disk that is busy elsewhere can make 200 in flight slower than one after the other: the
    # faster of the two is what the machine can do.
    floor = SHARE_OF_APPENDS * max(median(flight), median(serial))
    words = f"≥ 2,500/s, or {SHARE_OF_APPENDS} of the append floor = {floor:,.0f}/s"
    return [
        Figure(
            "accept",
            "runs accepted, 32 clients",
            "/s",
            rates,
            Goal(AT_LEAST, min(GOAL, floor), words),
            [
                Floor("bare FastAPI + pydantic echo", tuple(echo_rate)),
                Floor("bare JetStream append, fsync, 200 in flight", tuple(flight)),
                Floor("the same, one after the other", tuple(serial)),
            ],
            "POST to 201 with a signed token, quotas and a key of its own for each; "
            f"executors not started, projector running; {by_process(meter.seconds, accepted)}",
        ),
        Figure("accept", "the same, p99", "ms", slow),
        Figure(
            "accept",
            "a run accepted, one client alone, p50",
            "ms",
            alone,
            Goal(AT_MOST, 2.0),
            [
                Floor("bare FastAPI + pydantic echo", tuple(echo_alone)),
                Floor("bare JetStream append, fsync", tuple(serial_p50)),
            ],
        ),
    ]
