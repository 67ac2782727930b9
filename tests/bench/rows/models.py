"""Governed model calls: identity, entitlement, budget, policy, routing, usage, to a mock model."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
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
from tests.bench.machine import Meter
from tests.bench.node import NO_TRACE, ROOT, Node, running
from tests.bench.plan import Plan
from tests.bench.stats import AT_LEAST, AT_MOST, Figure, Floor, Goal, by_process, percentile

CLIENTS: Final = 16
PROMPT: Final = (
    "Write to the harbour master about the berth of the Alma. "
    "She needs water on Tuesday, and the crane on Wednesday morning. "
) * 8


def request(path: str, authorization: str, model: str, *, stream: bool) -> str:
    """Return a chat completion of about 1 KB."""
    content: dict[str, Any] = {
        "model": model,
        "messages": [
            {"role": "system", "content": "You are brief."},
            {"role": "user", "content": PROMPT},
        ],
        "max_tokens": 64,
    }
    if stream:
        content["stream"] = True
    body = json.dumps(content, separators=(",", ":"))
    return (
        f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
        f"Authorization: {authorization}\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    )


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
    through: dict[str, list[float]] = {"rate": [], "p50": [], "p99": [], "first": []}
    direct: dict[str, list[float]] = {"rate": [], "p50": [], "p99": [], "first": []}
    meter, calls = Meter(), 0
    async with mock_model() as upstream, gateway(upstream) as node:
        ours = _Side(node.second_port, "/v1/chat/completions", node.authorization, "openai/mock")
        bare = _Side(upstream, "/v1/chat/completions", "Bearer none", "mock")
        await ours.whole(CLIENTS, seconds=2.0)
        for _ in range(plan.repeats):
            meter.start(node.pids())
            outcome = await ours.whole(CLIENTS, seconds=plan.seconds)
            meter.stop(node.pids())
            calls += len(outcome.latencies)
            through["rate"].append(outcome.rate)
            direct["rate"].append((await bare.whole(CLIENTS, seconds=plan.seconds / 2)).rate)
            for side, kept in ((ours, through), (bare, direct)):
                single = (await side.whole(1, count=1000)).latencies
                kept["p50"].append(percentile(single, 0.5) * 1000)
                kept["p99"].append(percentile(single, 0.99) * 1000)
                first = (await side.first_token(count=500)).latencies
                kept["first"].append(percentile(first, 0.5) * 1000)
            await asyncio.sleep(0)
    note = by_process(meter.seconds, calls)
    return [
        Figure(
            "models",
            f"governed chat completions, {CLIENTS} clients, one gateway process",
            "/s",
            through["rate"],
            Goal(AT_LEAST, 3_000.0),
            [Floor("straight to the mock model", tuple(direct["rate"]))],
            f"1 KB prompt, budget, policy and durable usage on; {note}",
        ),
        _added("p50", through, direct, 0.6),
        _added("p99", through, direct, 4.0),
        _added("first", through, direct, 1.0),
    ]


def _added(
    name: str, through: dict[str, list[float]], direct: dict[str, list[float]], goal: float
) -> Figure:
    words = {
        "p50": "added to a call, one client alone, p50",
        "p99": "added to a call, one client alone, p99",
        "first": "first streamed text later than direct, p50",
    }
    base = median(direct[name])
    return Figure(
        "models",
        words[name],
        "ms",
        [value - base for value in through[name]],
        Goal(AT_MOST, goal),
        [Floor("straight to the mock model", tuple(direct[name]))],
    )


class _Side:
    """One server that is asked: ours, or the mock itself."""

    def __init__(self, port: int, path: str, authorization: str, model: str) -> None:
        self._port = port
        self._asked = {
            stream: request(path, authorization, model, stream=stream) for stream in (False, True)
        }

    async def whole(self, clients: int, **job: Any) -> Outcome:
        """Ask for whole answers."""
        return await generate(
            Job(
                port=self._port,
                request=self._asked[False],
                clients=clients,
                expected=200,
                **job,
            )
        )

    async def first_token(self, **job: Any) -> Outcome:
        """Ask for streams; the time is that of the first text."""
        return await generate(
            Job(
                port=self._port,
                request=self._asked[True],
                kind="first",
                clients=1,
                expected=200,
                **job,
            )
        )
