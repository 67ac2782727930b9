"""Admissions: one hot tenant through group commit, and what a tenant costs beside 10,000 others."""

import asyncio
import time
from collections.abc import Iterator
from itertools import cycle

from agentos.domain.tenant.quotas import RunLimits
from agentos.handlers.admission import AdmissionDesks
from agentos.handlers.watch import LogWatch
from agentos.infra.clock import SystemClock, SystemIds
from tests.bench.node import running
from tests.bench.plan import Plan
from tests.bench.stats import AT_LEAST, AT_MOST, Figure, Goal

LIMITS = RunLimits(max_concurrent_runs=10**9, run_create_qps=1e6, run_create_burst=1_000_000)
CALLERS = 256
SIDE_BY_SIDE = 10
FEW, MANY = 10, 10_000


async def admission(plan: Plan) -> list[Figure]:
    """Measure the desks of one process on a broker that fsyncs."""
    hot: list[float] = []
    few: list[float] = []
    many: list[float] = []
    async with running() as node:
        desks = AdmissionDesks(
            node.log, LogWatch(node.log), SystemClock(), SystemIds(), ttl_ms=86_400_000
        )
        await _ask(desks, cycle(_tenants("warm", MANY)), callers=SIDE_BY_SIDE, asks=MANY)
        asks = 2_000 if plan.quick else 10_000
        for trial in range(plan.repeats):
            hottest = cycle([f"tnt_hot{trial}"])
            seconds, _ = await _ask(desks, hottest, callers=CALLERS, asks=asks, frees=True)
            hot.append(asks / seconds)
            for values, count in ((few, FEW), (many, MANY)):
                names = cycle(_tenants("warm", count))
                _, processor = await _ask(desks, names, callers=SIDE_BY_SIDE, asks=2_000)
                values.append(processor / 2_000 * 1000)
    ratios = [b / a for a, b in zip(few, many, strict=True)]
    return [
        Figure(
            "admission",
            f"admissions of one tenant, {CALLERS} callers",
            "/s",
            hot,
            Goal(AT_LEAST, 1_000.0),
            [],
            "reserved, durable, rate and concurrency decided; one process, no HTTP",
        ),
        Figure("admission", f"processor time of an admission, {FEW} tenants", "ms", few),
        Figure("admission", f"the same, {MANY:,} tenants in memory and log", "ms", many),
        Figure("admission", f"{MANY:,} over {FEW} tenants", "x", ratios, Goal(AT_MOST, 1.2)),
    ]


def _tenants(name: str, count: int) -> list[str]:
    return [f"tnt_{name}{number}" for number in range(count)]


async def _ask(
    desks: AdmissionDesks,
    tenants: Iterator[str],
    *,
    callers: int,
    asks: int,
    frees: bool = False,
) -> tuple[float, float]:
    """Reserve `asks` slots, `callers` at a time; returns seconds, and seconds of processor."""
    new_id, left = SystemIds(), iter(range(asks))

    async def caller() -> None:
        for _ in left:
            tenant = next(tenants)
            slot = await desks.reserve(tenant, LIMITS, run_id=new_id("run"))
            if slot.error is not None:
                raise slot.error
            if frees:
                desks.on_final(tenant, slot.run_id)

    began, processor = time.perf_counter(), time.process_time()
    await asyncio.gather(*(caller() for _ in range(callers)))
    return time.perf_counter() - began, time.process_time() - processor
