"""A node that starts, and a node that does nothing."""

import asyncio

from tests.bench.machine import cpu_seconds, pss_mb
from tests.bench.plan import Plan
from tests.bench.stats import AT_MOST, Figure, Goal
from tests.bench.up_node import up_node

SETTLE_S = 5.0
WATCH_S = 10.0


async def idle(plan: Plan) -> list[Figure]:
    """Measure `agentos up` in an empty directory and again, then memory and processor at rest."""
    fresh, again = [], []
    for _ in range(plan.repeats - 1):
        async with up_node() as node:
            fresh.append(await node.up())
    async with up_node() as node:
        fresh.append(await node.up())
        for _ in range(plan.repeats):
            await node.down()
            again.append(await node.up())
        await asyncio.sleep(SETTLE_S)
        pids = await node.pids()
        memory = pss_mb(pids)
        before = cpu_seconds(pids)
        await asyncio.sleep(WATCH_S)
        used = sum(cpu_seconds(pids).values()) - sum(before.values())
    return [
        Figure("idle", "`agentos up`, empty directory", "s", fresh, Goal(AT_MOST, 5.0)),
        Figure("idle", "`agentos up` again, after `down`", "s", again, Goal(AT_MOST, 5.0)),
        Figure(
            "idle",
            "memory of an idle node, all processes (PSS)",
            "MiB",
            [sum(memory.values())],
            Goal(AT_MOST, 450.0),
            note=", ".join(f"{name} {mb:.0f}" for name, mb in memory.items()),
        ),
        Figure("idle", "processor used by an idle node", "% of a core", [used / WATCH_S * 100]),
    ]
