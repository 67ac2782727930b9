"""What a node does at its start about the forwards that it ever made."""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Final, cast

from agentos.domain.aggregate import Moment
from agentos.domain.auth import SYSTEM_PRINCIPAL, PolicyContext
from agentos.domain.envelope import Origin
from agentos.domain.federation.forward import Forward, ForwardRequested, forward_ref
from agentos.domain.federation.remote import RemoteRun, RunLinked, remote_ref
from agentos.domain.log import Commit, make_commit
from agentos.federation.parts import Ports
from agentos.federation.taking_up import find_open_work
from agentos.gateways.app import PostgresCopies
from agentos.infra.clock import SystemClock, SystemIds
from agentos.infra.jetstream.log import JetStreamLog
from agentos.projections.queries import make_pool
from tests.bench.node import BODY, ECHO, NO_TRACE, TENANT, Node, running
from tests.bench.plan import Plan
from tests.bench.stats import Figure

OPEN: Final = 20
AT_ONCE: Final = 200
RUN_ENDED: Final = "agentos.federation.run.ended"


async def starts(plan: Plan) -> list[Figure]:
    """Measure how long it takes to find what is open among so many forwards."""
    count = 5_000 if plan.quick else 100_000
    async with running("gateway", "handlers", "projector") as node:

        async def fill() -> None:
            await write_forwards(node.log, count)
            await node.projected(within=600)

        await node.without_fsync(fill)
        by_rows = [await look(node, has_rows=True) for _ in range(plan.repeats)]
        by_log = [await look(node, has_rows=False) for _ in range(plan.repeats)]
    name = f"finding the {OPEN} open ones of {count:,} forwards at a start"
    return [
        Figure("federation", f"{name}, by the read model", "ms", by_rows),
        Figure("federation", f"{name}, without it: by the log's headers", "ms", by_log),
    ]


async def look(node: Node, *, has_rows: bool) -> float:
    """Return the milliseconds until the open forwards and copies are known."""
    pool = make_pool(node.postgres.dsn)
    await pool.open()
    figures = PostgresCopies(pool) if has_rows else None
    ports = SimpleNamespace(log=node.log, peering=SimpleNamespace(figures=figures))
    await pool.wait()
    began = time.perf_counter()
    work = await find_open_work(cast("Ports", ports))
    took = (time.perf_counter() - began) * 1000
    await pool.close()
    if (len(work.forwards), len(work.copies)) != (OPEN, OPEN):
        raise RuntimeError(f"found {len(work.forwards)} forwards, {len(work.copies)} copies")
    return took


async def write_forwards(log: JetStreamLog, count: int) -> None:
    """Write so many forwards and copies, all but the last few of each finished."""
    left = iter(range(count))

    async def write() -> None:
        for number in left:
            is_open = number >= count - OPEN
            for commits in (forward(is_open=is_open), copy(is_open=is_open)):
                position = 0
                for commit in commits:
                    position = await log.append(commit, expected=position)

    await asyncio.gather(*(write() for _ in range(AT_ONCE)))


NEW_ID: Final = SystemIds()


def forward(*, is_open: bool) -> Iterator[Commit]:
    """Give the commits of a forward: the intent, and its result."""
    at, made = moment(), Forward(forward_ref(TENANT, NEW_ID("fwd")))
    wanted = ForwardRequested(
        stack_id="stk_b",
        agent_id=ECHO,
        run_request=dict(BODY),
        selector={},
        idempotency_key=made.ref.aggregate_id,
        principal=SYSTEM_PRINCIPAL,
        scopes=[],
        policy_context=PolicyContext(),
        attempt=1,
    )
    events = made.request(wanted, at)
    yield make_commit(made.ref, events, NEW_ID)
    if not is_open:
        made.evolve(events[0])
        accepted = made.accept(NEW_ID("run"), "http://127.0.0.1/x", "queued", at)
        yield make_commit(made.ref, accepted, NEW_ID)


def copy(*, is_open: bool) -> Iterator[Commit]:
    """Give the commits of a copy: its link, and its end with 1.5 KB beside it."""
    at, made = moment(), RemoteRun(remote_ref(TENANT, NEW_ID("run")))
    linked = RunLinked(
        stack_id="stk_b",
        forward_id=NEW_ID("fwd"),
        agent_id=ECHO,
        events_url="http://127.0.0.1/x",
        status="queued",
        created_at="2026-11-21T10:15:36.121Z",
        run_options={},
    )
    events = made.link(linked, at)
    first = make_commit(made.ref, events, NEW_ID)
    yield first
    if not is_open:
        body = first.body.replace(b'"sequence":1', b'"sequence":2')
        body = body.replace(RunLinked.TYPE.encode(), RUN_ENDED.encode())
        body = body.replace(b'"payload":{', b'"payload":{"status":"completed","last":9,', 1)
        yield replace(
            first, commit_id=NEW_ID("cmt"), first_sequence=2, types=(RUN_ENDED,), body=body
        )


def moment() -> Moment:
    """Return now."""
    return Moment(SystemClock().now_ms(), NEW_ID, Origin(NO_TRACE, SYSTEM_PRINCIPAL))
