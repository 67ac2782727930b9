"""Governed model calls: identity, entitlement, budget, policy, routing, usage, to a mock model."""

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final

from agentos.domain.aggregate import Moment
from agentos.domain.auth import SYSTEM_PRINCIPAL
from agentos.domain.envelope import Origin
from agentos.domain.log import make_commit
from agentos.domain.models.catalog import Catalog
from agentos.domain.models.defaults import completed
from agentos.domain.models.published import CATALOG_REF, CatalogAggregate
from agentos.infra.clock import SystemClock, SystemIds
from agentos.infra.node.ports import pick_port
from tests.bench.floors import listening
from tests.bench.load import Job, Outcome, generate
from tests.bench.machine import Meter, rss_mb
from tests.bench.node import NO_TRACE, ROOT, Node, running
from tests.bench.plan import Plan
from tests.bench.stats import AT_LEAST, AT_MOST, Figure, Floor, Goal, by_process, percentile

CLIENTS: Final = 16
MANY: Final = 1_000_000
DIRECT: Final = "straight to the mock model"
PROMPT: Final = (
    "Write to the harbour master about the berth of the Alma. "
    "She needs water on Tuesday, and the crane on Wednesday morning. "
) * 8


def request(
    authorization: str, model: str, headers: Mapping[str, str] | None = None
) -> dict[bool, str]:
    """Return a chat completion of about 1 KB, whole (`False`) and streamed (`True`)."""
    content: dict[str, Any] = {
        "model": model,
        "messages": [
            {"role": "system", "content": "You are brief."},
            {"role": "user", "content": PROMPT},
        ],
        "max_tokens": 64,
    }
    more = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
    asked = {}
    for stream, extra in ((False, {}), (True, {"stream": True})):
        body = json.dumps({**content, **extra}, separators=(",", ":"))
        asked[stream] = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: bench\r\n{more}"
            f"Content-Type: application/json\r\nAuthorization: {authorization}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n{body}"
        )
    return asked


@asynccontextmanager
async def mock_model() -> AsyncIterator[int]:
    """Give the port of a mock model server."""
    port = pick_port()
    argv = [sys.executable, "-m", "tests.bench.mock_model", str(port)]
    process = subprocess.Popen(argv, cwd=ROOT)  # noqa: ASYNC220 - starts at once
    try:
        await listening(port)
        yield port
    finally:
        process.kill()
        process.wait(5)


@asynccontextmanager
async def gateway(upstream: int) -> AsyncIterator[Node]:
    """Give a node whose backend `openai` is the mock, at a price."""
    backend = {"name": "openai", "kind": "openai", "base_url": f"http://127.0.0.1:{upstream}/v1"}
    price = {"input_per_million": 2.5, "output_per_million": 10.0}
    model = {"model_id": "openai/mock", "price": price}
    document = Catalog.model_validate({"backends": [backend], "models": [model], "routes": []})
    async with running("handlers", "projector", "gateway") as node:
        catalog = CatalogAggregate(CATALOG_REF)
        at = Moment(SystemClock().now_ms(), SystemIds(), Origin(NO_TRACE, SYSTEM_PRINCIPAL))
        events = catalog.publish(completed(document), "file", at)
        await node.log.append(make_commit(catalog.ref, events, at.new_id), expected=0)
        yield node


async def models(plan: Plan) -> list[Figure]:
    """Measure chat completions through the gateway, and the same straight to the mock."""
    through, direct = Trials(), Trials()
    meter, calls = Meter(), 0
    async with mock_model() as upstream, gateway(upstream) as node:
        ours = Side(node.second_port, request(node.authorization, "openai/mock"))
        bare = Side(upstream, request("Bearer none", "mock"))
        await ours.whole(CLIENTS, seconds=2.0)
        for _ in range(plan.repeats):
            meter.start(node.pids())
            outcome = await ours.whole(CLIENTS, seconds=plan.seconds)
            meter.stop(node.pids())
            calls += len(outcome.latencies)
            through.rate.append(outcome.rate)
            direct.rate.append((await bare.whole(CLIENTS, seconds=plan.seconds / 2)).rate)
            for side, kept in ((bare, direct), (ours, through)):
                await side.alone(kept)
                await side.streamed(kept)
        grown = await _memory(node, ours, plan)
    note = by_process(meter.seconds, calls)
    return [
        Figure(
            "models",
            f"governed chat completions, {CLIENTS} clients, one gateway process",
            "/s",
            through.rate,
            Goal(AT_LEAST, 3_000.0),
            [Floor(DIRECT, tuple(direct.rate))],
            f"1 KB prompt, budget, policy and durable usage on; {note}",
        ),
        _added("added to a call, one client alone, p50", through.p50, direct.p50, 0.6),
        _added("added to a call, one client alone, p99", through.p99, direct.p99, 4.0),
        _added("first streamed text later than direct, p50", through.first, direct.first, 1.0),
        *grown,
    ]


async def _memory(node: Node, ours: "Side", plan: Plan) -> list[Figure]:
    """Return what the processes hold after many more calls, in parts of what they held before."""
    many = MANY if plan.long else MANY // 10 if not plan.quick else 0
    if not many:
        return []
    pids = node.pids()
    await ours.whole(CLIENTS, count=many // 10)
    before = {name: rss_mb(pid) for name, pid in pids.items()}
    held = []
    for _ in range(9):
        await ours.whole(CLIENTS, count=many // 10)
        held.append(rss_mb(pids["gateway"]))
    after = {name: rss_mb(pid) for name, pid in pids.items()}
    words = ", ".join(f"{name} {before[name]:.0f} to {after[name]:.0f} MiB" for name in pids)
    return [
        Figure(
            "models",
            f"gateway memory after {many:,} calls over that after {many // 10:,}",
            "x",
            [after["gateway"] / before["gateway"]],
            Goal(AT_MOST, 1.1),
            note=f"{words}; the gateway on the way: {', '.join(f'{mb:.0f}' for mb in held)}",
        )
    ]


def _added(what: str, through: list[float], direct: list[float], goal: float) -> Figure:
    floor = Floor(DIRECT, tuple(direct))
    return Figure("models", what, "ms", later(through, direct), Goal(AT_MOST, goal), [floor])


def later(through: list[float], direct: list[float]) -> list[float]:
    """Return how much later each is than the middle of the direct ones."""
    return [value - median(direct) for value in through]


@dataclass
class Trials:
    """What was measured of one server: calls a second, and milliseconds of one client alone."""

    rate: list[float] = field(default_factory=list)
    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)


class Side:
    """One server that is asked: ours, a peer, or the mock itself."""

    def __init__(self, port: int, asked: Mapping[bool, str]) -> None:
        self._port = port
        self._asked = asked

    async def whole(self, clients: int, **job: Any) -> Outcome:
        """Ask for whole answers."""
        asked = self._asked[False]
        work = Job(port=self._port, request=asked, clients=clients, expected=200, **job)
        return await generate(work)

    async def alone(self, kept: Trials, count: int = 1000) -> None:
        """Ask as one client alone for whole answers."""
        single = (await self.whole(1, count=count)).latencies
        kept.p50.append(percentile(single, 0.5) * 1000)
        kept.p99.append(percentile(single, 0.99) * 1000)

    async def streamed(self, kept: Trials, count: int = 500) -> None:
        """Ask as one client alone for streams, until their first text."""
        asked = self._asked[True]
        job = Job(port=self._port, request=asked, kind="first", clients=1, count=count)
        job.expected = 200
        kept.first.append(percentile((await generate(job)).latencies, 0.5) * 1000)
