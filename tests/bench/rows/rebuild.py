"""The read models made anew from the log."""

import asyncio
import json
import time

from agentos.infra.jetstream.log import JetStreamLog
from tests.bench.history import History, newest_run, take_template
from tests.bench.node import TENANT, Node, running
from tests.bench.plan import Plan
from tests.bench.stats import AT_LEAST, Figure, Floor, Goal
from tests.bench.up_node import AGENTOS


async def rebuild(plan: Plan) -> list[Figure]:
    """Rebuild from a log of real runs with `agentos replay rebuild`, the projector stopped."""
    runs = 5_000 if plan.quick else 30_000
    paces, whole, floor = [], [], []
    async with running() as node:
        await _lay(node, runs)
        await node.projected(within=300)
        node.stop("projector")
        for _ in range(plan.repeats):
            floor.append(await _read(node.log))
            began = time.monotonic()
            done = await _rebuild(node)
            whole.append(done["events"] / (time.monotonic() - began))
            paces.append(done["events"] / done["seconds"])
    return [
        Figure(
            "rebuild",
            f"read models rebuilt, {done['events']:,} events",
            "events/s",
            paces,
            Goal(AT_LEAST, 15_000.0),
            [Floor("bare tail reader", tuple(floor))],
        ),
        Figure(
            "rebuild",
            "the whole command: start, digests of old and new, switch",
            "events/s",
            whole,
        ),
    ]


async def _lay(node: Node, runs: int) -> None:
    await node.load("whole", tag="first", clients=1, count=3)
    template = await take_template(node.log, TENANT, await newest_run(node.log, TENANT))
    node.stop("gateway", "handlers", "executor")

    async def work() -> None:
        await History(node.log, TENANT, template).lay(runs)

    await node.without_fsync(work)


async def _read(log: JetStreamLog) -> float:
    events, began = 0, time.monotonic()
    async for batch in log.tail(after=0):
        events += sum(len(record.types) for record in batch.records)
        if batch.caught_up:
            break
    return events / (time.monotonic() - began)


async def _rebuild(node: Node) -> dict[str, float]:
    process = await asyncio.create_subprocess_exec(
        str(AGENTOS),
        "replay",
        "rebuild",
        "--json",
        env=node.environment(),
        cwd=node.directory,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    out, _ = await asyncio.wait_for(process.communicate(), 300)
    done: dict[str, float] = json.loads(out)
    if not done["identical"]:
        raise ValueError(f"the rebuilt rows differ: {out.decode()[:500]}")
    return done
