"""Runs at another node: what a forward costs, and how soon its events are back."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from statistics import median
from typing import Any, Final

import aiohttp

from agentos.domain.aggregate import Moment
from agentos.domain.auth import SYSTEM_PRINCIPAL
from agentos.domain.envelope import Origin
from agentos.domain.federation.remote import RemoteEnded
from agentos.domain.log import make_commit
from agentos.domain.run.run import Run, run_ref
from agentos.infra.clock import SystemClock, SystemIds
from tests.bench.machine import Meter
from tests.bench.node import BODY, ECHO, NO_TRACE, TENANT, Node, running
from tests.bench.plan import Plan
from tests.bench.rows.federation_start import starts
from tests.bench.stats import AT_MOST, Figure, Goal, by_process, percentile

HEADERS: Final = {"X-Tenant-Id": TENANT, "X-Principal-Id": "usr_bench"}
CLIENTS: Final = 16
TWICE: Final = 2.0
DESIGN: Final = 1_000
RESULT_S: Final = 0.02  # by then the result of the forward before is written: it costs its own
BACK_MS: Final = 10.0


async def federation(plan: Plan) -> list[Figure]:
    """Measure two nodes on this machine: A forwards, B executes."""
    ratios, forwards, creates, back = [], [], [], []
    count = 60 if plan.quick else 200
    async with two("gateway", "handlers") as (a, b), client(a) as http:
        await forward_many(http, a, 20, 4)
        for _ in range(plan.repeats):
            create, forward = await in_turn(http, a, count)
            creates.append(create * 1000)
            forwards.append(forward * 1000)
            ratios.append(forward / create)
            back.append(percentile(await events_back(http, a, b, count), 0.5) * 1000)
    cost, follows, note = await whole_runs(plan)
    return [
        Figure(
            "federation",
            "a forward, one client alone, p50",
            "ms",
            forwards,
            Goal(AT_MOST, TWICE * median(creates), f"≤ 2 x a local create ({median(creates):.2f})"),
            note="the intent, then the peer's create, both durable, on loopback; the result is "
            f"written beside the answer; {median(ratios):.2f} x a local create in turn with it",
        ),
        Figure("federation", "a local create, in turn with it, p50", "ms", creates),
        Figure(
            "federation",
            "an event committed on B, at a client of A, p50",
            "ms",
            back,
            Goal(AT_MOST, BACK_MS),
            note="from the append's acknowledgement to the line at A's client",
        ),
        Figure(
            "federation", "processor time of a forwarded run, both nodes", "ms", cost, note=note
        ),
        Figure(
            "federation",
            f"cores for {DESIGN:,} forwarded runs/s, the busier of the two machines",
            "cores",
            follows,
            note="from the line above: what each node's processes use for one run, a thousand "
            "times a second; executing the run is in B's share",
        ),
        *await starts(plan),
    ]


@asynccontextmanager
async def two(*names: str, b_names: tuple[str, ...] = ()) -> AsyncIterator[tuple[Node, Node]]:
    """Give A with these processes, and B, its only peer."""
    b_names = b_names or names
    async with running(*b_names, settings={"AGENTOS_STACK_ID": "stk_b"}) as b:
        file = b.directory / "peers_of_a.json"
        urls = [f"http://127.0.0.1:{port}" for port in (b.port, b.second_port, b.third_port)]
        doors = ("agent-orchestrator", "model-policy", "federation")
        endpoints = {f"{d}_base_url": url for d, url in zip(doors, urls, strict=True)}
        file.write_text(json.dumps({"peers": [{"stack_id": "stk_b", "endpoints": endpoints}]}))
        settings = {"AGENTOS_STACK_ID": "stk_a", "AGENTOS_PEERS_FILE": str(file)}
        async with running(*names, settings=settings) as a:
            yield a, b


@asynccontextmanager
async def client(node: Node) -> AsyncIterator[aiohttp.ClientSession]:
    """Give a session with its connections kept."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(headers=HEADERS, connector=connector) as http:
        yield http


async def forward(http: aiohttp.ClientSession, node: Node) -> str:
    """Forward a run; returns its id over there."""
    run = {"agent_id": ECHO, **BODY}
    body = {"forward": {"target_selector": {"stack_id": "stk_b"}, "run_request": run}}
    url = f"http://127.0.0.1:{node.third_port}/v1/federation/runs:forward"
    async with http.post(url, json=body) as answer:
        content = await answer.json()
        if answer.status != 200:
            raise RuntimeError(f"not forwarded: {content}")
        run_id: str = content["forwarded"]["remote_run_id"]
        return run_id


async def create(http: aiohttp.ClientSession, node: Node) -> None:
    """Start a run here."""
    url = f"http://127.0.0.1:{node.port}/v1/agents/{ECHO}/runs"
    async with http.post(url, json=BODY) as answer:
        if answer.status != 201:
            raise RuntimeError(f"not accepted: {await answer.text()}")


async def in_turn(http: aiohttp.ClientSession, node: Node, count: int) -> tuple[float, float]:
    """Return the median seconds of a create and of a forward, one after the other."""
    creates, forwards = [], []
    for _ in range(count):
        began = time.perf_counter()
        await create(http, node)
        between = time.perf_counter()
        await forward(http, node)
        creates.append(between - began)
        forwards.append(time.perf_counter() - between)
        await asyncio.sleep(RESULT_S)
    return percentile(creates, 0.5), percentile(forwards, 0.5)


async def forward_many(
    http: aiohttp.ClientSession, node: Node, count: int, clients: int
) -> list[str]:
    """Forward so many runs, so many at a time; returns their ids."""
    left, found = iter(range(count)), []

    async def work() -> None:
        for _ in left:
            found.append(await forward(http, node))

    await asyncio.gather(*(work() for _ in range(clients)))
    return found


async def events_back(http: aiohttp.ClientSession, a: Node, b: Node, count: int) -> list[float]:
    """Append events to a run on B, and return how long each took to a client of A."""
    run_id = await forward(http, a)
    run = Run(run_ref(TENANT, run_id)).fold(await b.log.read(run_ref(TENANT, run_id)))
    arrived: dict[int, float] = {}
    news = asyncio.Event()

    async def listen() -> None:
        url = f"http://127.0.0.1:{a.third_port}/v1/federation/runs/{run_id}/events"
        async with http.get(url, timeout=aiohttp.ClientTimeout(total=None)) as answer:
            async for line in answer.content:
                if line.startswith(b"id: "):
                    arrived[int(line[4:])] = time.perf_counter()
                    news.set()

    listening = asyncio.create_task(listen())
    await until(news, arrived, 1)
    took = []
    new_id = SystemIds()
    for attempt in range(count):
        at = Moment(SystemClock().now_ms(), new_id, Origin(NO_TRACE, SYSTEM_PRINCIPAL))
        run.start(f"wrk_{attempt}", at)
        commit = make_commit(run.ref, run.collect(), new_id)
        run.position = await b.log.append(commit, expected=run.position)
        acknowledged = time.perf_counter()
        await until(news, arrived, run.sequence)
        took.append(max(0.0, arrived[run.sequence] - acknowledged))
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)
    return took


async def until(news: asyncio.Event, arrived: dict[int, float], sequence: int) -> None:
    """Wait until an event is there."""
    async with asyncio.timeout(20):
        while sequence not in arrived:
            await news.wait()
            news.clear()


async def whole_runs(plan: Plan) -> tuple[list[float], list[float], str]:
    """Return the processor time (ms) of runs that are forwarded, executed and copied back.

    With it what the busier node needs for `DESIGN` of them a second, in cores, and by process.
    """
    costs, cores, meter, total = [], [], Meter(), 0
    count = 100 if plan.quick else 400
    b_names = ("gateway", "handlers", "executor", "projector")
    async with (
        two("gateway", "handlers", "projector", b_names=b_names) as (a, b),
        client(a) as http,
    ):
        await forward_many(http, a, 30, CLIENTS)
        for _ in range(plan.repeats):
            one = Meter()
            pids = {
                f"{where} {name}": pid
                for where, n in (("A", a), ("B", b))
                for name, pid in n.pids().items()
            }
            one.start(pids)
            meter.start(pids)
            ids = await forward_many(http, a, count, CLIENTS)
            await copied(a, ids)
            one.stop(pids)
            meter.stop(pids)
            total += count
            costs.append(sum(one.seconds.values()) / count * 1000)
            cores.append(max(share(one.seconds, letter, count) for letter in "AB") * DESIGN)
    on_a, on_b = (share(meter.seconds, letter, total) * DESIGN for letter in "AB")
    said = f"16 clients; forwarded, executed, copied; {by_process(meter.seconds, total)}"
    return costs, cores, f"{said}; {most(meter.seconds, total)}; A {on_a:.1f}, B {on_b:.1f} cores"


def share(seconds: Mapping[str, float], letter: str, count: int) -> float:
    """Return the processor seconds that a node took for one of `count` runs."""
    return sum(s for name, s in seconds.items() if name.startswith(letter)) / count


def most(seconds: Mapping[str, float], count: int) -> str:
    """Return what the processes of which a node has one can bear: a gateway, the broker."""
    ones = {name: s for name, s in seconds.items() if name.split()[1] in ("gateway", "nats")}
    name = max(ones, key=lambda one: ones[one])
    most_a_second = count / ones[name]
    return f"of what is one process in a node, {name} is full first, at {most_a_second:.0f}/s"


def pids_of(letter: str, node: Node) -> dict[str, int]:
    """Return a node's pids by its letter and their names."""
    return {f"{letter} {name}": pid for name, pid in node.pids().items()}


async def copied(node: Node, ids: list[str]) -> None:
    """Wait until A has the last event of each run."""
    wanted = set(ids)
    async with asyncio.timeout(120):
        while True:
            lasts: list[Any] = await node.log.last_of_kind("remote", TENANT)
            ended = {r.ref.aggregate_id for r in lasts if RemoteEnded.TYPE in r.types}
            if wanted <= ended:
                return
            await asyncio.sleep(0.2)
