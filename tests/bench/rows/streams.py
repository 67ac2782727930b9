"""From a commit to its subscribers, few and many of them.

The bench writes the events itself, so that it knows to the microsecond when the log
acknowledged each; it hears them on streams of the gateway in the same process.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import aiohttp

from agentos.domain.aggregate import Moment
from agentos.domain.auth import SYSTEM_PRINCIPAL, PolicyContext
from agentos.domain.envelope import Origin
from agentos.domain.log import make_commit
from agentos.domain.run.events import RunCreated, StepStarted
from agentos.domain.run.run import Run, run_ref
from agentos.infra.clock import SystemClock, SystemIds
from agentos.infra.jetstream.log import JetStreamLog
from tests.bench.ears import close_ears, open_ears
from tests.bench.floors import bare_app
from tests.bench.machine import pss_mb
from tests.bench.node import TENANT, Node, running
from tests.bench.plan import Plan
from tests.bench.stats import AT_MOST, Figure, Floor, Goal, percentile

TRACE = "00-" + "1" * 32 + "-" + "2" * 16 + "-01"
HOT = 100
PACE_S = 0.005


class Speaker:
    """Writes runs into the log by hand, and notes when each marked event was acknowledged."""

    def __init__(self, log: JetStreamLog) -> None:
        self._log, self._new_id, self._clock = log, SystemIds(), SystemClock()
        self.acknowledged: dict[int, int] = {}
        self.sent: dict[int, int] = {}
        self._mark = 0

    async def begin(self, runs: int) -> list[Run]:
        """Write the beginning of so many runs."""
        made: list[Run] = []
        while len(made) < runs:
            size = min(200, runs - len(made))
            made += await asyncio.gather(*(self._begin() for _ in range(size)))
        return made

    async def _begin(self) -> Run:
        run = Run(run_ref(TENANT, self._new_id("run")))
        created = RunCreated(
            input={"type": "text", "text": "listen"},
            context={"locale": "en-US", "timezone": "UTC"},
            tooling={},
            run_options={"priority": "normal", "timeout_ms": 180_000, "max_steps": 30},
            principal=SYSTEM_PRINCIPAL,
            policy_context=PolicyContext(),
            agent_version="1",
        )
        at = self._moment()
        run.create("agt_bench_echo", created, at)
        run.start("wrk_bench", at)
        await self._append(run)
        return run

    async def say(self, run: Run) -> None:
        """Write one marked event, and note when it was sent and when acknowledged."""
        self._mark += 1
        mark = self._mark
        started = StepStarted(step_kind="plan", name="say", message=f"at:{mark}:")
        run.stage(self._moment(), started, step_id=self._new_id("stp"))
        self.sent[mark] = time.monotonic_ns()
        await self._append(run)
        self.acknowledged[mark] = time.monotonic_ns()

    async def _append(self, run: Run) -> None:
        commit = make_commit(run.ref, run.collect(), self._new_id)
        run.position = await self._log.append(commit, expected=run.position)

    def _moment(self) -> Moment:
        origin = Origin(TRACE, SYSTEM_PRINCIPAL)
        return Moment(self._clock.now_ms(), self._new_id, origin)


class Heard:
    """When each mark arrived, on every stream that it arrived on."""

    def __init__(self) -> None:
        self.arrivals: list[tuple[int, int]] = []

    def __call__(self, mark: int, at_ns: int) -> None:
        """Note one arrival."""
        self.arrivals.append((mark, at_ns))

    async def wait_for(self, count: int, within: float = 30.0) -> None:
        """Wait until so many arrivals were noted; `TimeoutError` when they do not come."""
        async with asyncio.timeout(within):
            while len(self.arrivals) < count:  # noqa: ASYNC110 - cheaper for the callback
                await asyncio.sleep(0.01)

    def latencies_ms(self, since: dict[int, int]) -> list[float]:
        """Return what lay between `since` and the arrivals."""
        return [(at - since[mark]) / 1e6 for mark, at in self.arrivals]


async def streams(plan: Plan) -> list[Figure]:
    """Measure from commit to client with one stream, with many, and to all of many."""
    async with running("handlers", "projector", "gateway") as node:
        one, one_sent = await _one(node, plan)
        empty = _memory(node)
        some, opened, full = await _some_of_many(node, plan)
        every, last = await _all_of_many(node, plan)
    bare_one, _ = await _bare(1, plan.repeats, 100)
    bare_every, bare_last = await _bare(plan.streams, plan.repeats, 3)
    many = f"{plan.streams:,} streams open"
    return [
        Figure(
            "streams",
            "event from commit to an SSE client, p50",
            "ms",
            one,
            Goal(AT_MOST, 3.0),
            [Floor("bare uvicorn fan-out", tuple(bare_one))],
            "commit = its acknowledgement seen by the writer; writer and reader are one process",
        ),
        Figure("streams", "the same from before the append (with the fsync), p50", "ms", one_sent),
        Figure(
            "streams",
            f"{many}, events to {HOT} of them, p99",
            "ms",
            some,
            Goal(AT_MOST, 50.0),
            note=f"every stream follows a run of its own; {1 / PACE_S:.0f} events a second",
        ),
        Figure(
            "streams",
            f"{many}, one event to all of them, p50",
            "ms",
            every,
            None,
            [Floor("bare uvicorn fan-out", tuple(bare_every))],
        ),
        Figure(
            "streams",
            "the same, until the last of them has it",
            "ms",
            last,
            None,
            [Floor("bare uvicorn fan-out", tuple(bare_last))],
        ),
        Figure("streams", "streams opened, each with its catch-up from the log", "/s", [opened]),
        Figure("streams", "gateway memory a stream", "KiB", [(full - empty) * 1024 / plan.streams]),
    ]


def _memory(node: Node) -> float:
    return pss_mb({"gateway": node.processes["gateway"].pid})["gateway"]


def _request(node: Node, run: Run) -> bytes:
    return (
        f"GET /v1/runs/{run.ref.aggregate_id}/events HTTP/1.1\r\nHost: bench\r\n"
        f"Authorization: {node.authorization}\r\n\r\n"
    ).encode()


async def _one(node: Node, plan: Plan) -> tuple[list[float], list[float]]:
    speaker = Speaker(node.log)
    (run,) = await speaker.begin(1)
    from_commit, from_sent = [], []
    for _ in range(plan.repeats):
        heard = Heard()
        ears = await open_ears(node.port, [_request(node, run)], heard)
        await asyncio.sleep(0.2)
        heard.arrivals.clear()
        for count in range(1, 201):
            await speaker.say(run)
            await heard.wait_for(count)
        close_ears(ears)
        from_commit.append(percentile(heard.latencies_ms(speaker.acknowledged), 0.5))
        from_sent.append(percentile(heard.latencies_ms(speaker.sent), 0.5))
    return from_commit, from_sent


async def _some_of_many(node: Node, plan: Plan) -> tuple[list[float], float, float]:
    speaker, heard = Speaker(node.log), Heard()
    made = await speaker.begin(plan.streams)
    began = time.monotonic()
    ears = await open_ears(node.port, [_request(node, run) for run in made], heard)
    rate = len(ears) / (time.monotonic() - began)
    values = []
    for _ in range(plan.repeats):
        await asyncio.sleep(1.0)
        heard.arrivals.clear()
        values.append(await _speak(speaker, made[:: len(made) // HOT][:HOT], heard))
    memory = _memory(node)
    close_ears(ears)
    await asyncio.sleep(1.0)
    return values, rate, memory


async def _speak(speaker: Speaker, hot: Sequence[Run], heard: Heard) -> float:
    """Say something on each hot run in turn, at a steady pace; the p99 in ms."""
    for _ in range(6):
        for run in hot:
            due = time.monotonic() + PACE_S
            await speaker.say(run)
            await asyncio.sleep(max(0.0, due - time.monotonic()))
    await heard.wait_for(6 * len(hot))
    return percentile(heard.latencies_ms(speaker.acknowledged), 0.99)


async def _all_of_many(node: Node, plan: Plan) -> tuple[list[float], list[float]]:
    speaker, heard = Speaker(node.log), Heard()
    (run,) = await speaker.begin(1)
    ears = await open_ears(node.port, [_request(node, run)] * plan.streams, heard)
    middle, last = [], []
    for _ in range(plan.repeats * 2):
        await asyncio.sleep(0.5)
        heard.arrivals.clear()
        await speaker.say(run)
        await heard.wait_for(plan.streams)
        latencies = heard.latencies_ms(speaker.acknowledged)
        middle.append(percentile(latencies, 0.5))
        last.append(max(latencies))
    close_ears(ears)
    return middle, last


async def _bare(count: int, repeats: int, events: int) -> tuple[list[float], list[float]]:
    """The same on the bare fan-out, where the mark is the time at which the app begins to send."""
    request = b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n"
    middle, last = [], []
    async with bare_app("create_fan_out") as port:
        heard = Heard()
        ears = await open_ears(port, [request] * count, heard)
        for _ in range(repeats):
            latencies: list[float] = []
            for _ in range(events):
                heard.arrivals.clear()
                await _publish(port)
                await heard.wait_for(count)
                latencies += [(at - mark) / 1e6 for mark, at in heard.arrivals]
            middle.append(percentile(latencies, 0.5))
            last.append(max(latencies))
        close_ears(ears)
    return middle, last


async def _publish(port: int) -> Any:
    async with aiohttp.ClientSession() as http, http.post(f"http://127.0.0.1:{port}/") as answer:
        answer.raise_for_status()
