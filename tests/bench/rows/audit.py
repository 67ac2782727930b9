"""The audit: how soon a record is there, and how fast a long chain is exported and verified."""

import asyncio
import json
import os
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import nats
from nats.js.api import ConsumerConfig, DeliverPolicy

from agentos.domain.run.events import RunCreated
from agentos.infra.jetstream.connection import bounded_close, connect
from agentos.infra.jetstream.log import JetStreamLog
from agentos.infra.jetstream.streams import ensure_log
from tests.bench.node import Node, running
from tests.bench.plan import Plan
from tests.bench.rows.replay import TENANT, lay
from tests.bench.stats import AT_LEAST, AT_MOST, Figure, Goal, percentile
from tests.bench.up_node import AGENTOS
from tests.handlers.auditor.audited import audit_all, sign
from tests.infra.embedded import EmbeddedNats

SHARE: Final = 0.5
SOON_MS: Final = 200.0
LOOK_S: Final = 0.01
LATE_S: Final = 30.0
VERIFY: Final = Goal(AT_LEAST, 20_000.0)


async def audit(plan: Plan) -> list[Figure]:
    """Measure records at half the accept load, then a chain over a million events."""
    return [*await _freshness(plan), *await _chain(plan)]


# How soon


@dataclass
class Watcher:
    """Looks at `GET /v1/audit` again and again, and notes when it first saw each run's record."""

    node: Node
    seen: dict[str, float] = field(default_factory=dict)

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """Read from the newest record back to one that is known."""
        cursor = ""
        while True:
            query = f"/v1/audit?action=runs.create&limit=50{cursor}"
            async with self.node.http.get(query) as answer:
                page, now = await answer.json(), time.time() * 1000
            new = [r["run_id"] for r in page["records"] if r["run_id"] not in self.seen]
            self.seen |= dict.fromkeys(new, now)
            if len(new) < len(page["records"]) or "next_cursor" not in page:
                return
            cursor = f"&cursor={page['next_cursor']}"


async def _freshness(plan: Plan) -> list[Figure]:
    late, shares, offered = [], [], []
    async with running("handlers", "projector", "gateway", "auditor") as node:
        await node.load("post", tag="warm", clients=32, seconds=1.0)
        most = (await node.load("post", tag="most", clients=32, seconds=plan.seconds)).rate
        await node.projected(within=300)
        for trial in range(plan.repeats):
            waits = await _waits(node, f"half{trial}", most * SHARE, plan.seconds)
            late.append(percentile(waits, 0.99))
            shares.append(100 * sum(wait <= SOON_MS for wait in waits) / len(waits))
            offered.append(len(waits) / plan.seconds)
    return [
        Figure(
            "audit",
            "from a run's acceptance to its record in `GET /v1/audit`, p99",
            "ms",
            late,
            Goal(AT_MOST, SOON_MS),
            note=f"half of {most:,.0f} accepted a second; asked every {LOOK_S * 1000:.0f} ms and "
            "more, which counts in; executors not started",
        ),
        Figure("audit", "records there within 200 ms", "%", shares, Goal(AT_LEAST, 99.0)),
        Figure("audit", "the load meanwhile", "runs/s", offered),
    ]


async def _waits(node: Node, tag: str, rate: float, seconds: float) -> list[float]:
    """Return for each run accepted under load the ms from its commit to its record."""
    head, watcher = await node.log.head(), Watcher(node)
    await watcher.look()
    watching = asyncio.create_task(watcher.run())
    try:
        await node.load("post", tag=tag, clients=32, seconds=seconds, rate=rate)
        began = await _accepted(node, head)
        async with asyncio.timeout(LATE_S):
            while not watching.done() and not began.keys() <= watcher.seen.keys():  # noqa: ASYNC110 - what is measured
                await asyncio.sleep(LOOK_S)
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    return [watcher.seen[run_id] - at for run_id, at in began.items()]


async def _accepted(node: Node, after: int) -> dict[str, float]:
    """Return the runs that were made behind a position, and when the broker had them (ms)."""
    head, found = await node.log.head(), dict[str, float]()
    client = await nats.connect(node.nats.url)
    try:
        config = ConsumerConfig(
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=after + 1
        )
        messages = await client.jetstream().subscribe(
            "log.>", stream="LOG_0", ordered_consumer=True, config=config
        )
        at = after
        while at < head:
            message = await messages.next_msg(timeout=30)
            at = message.metadata.sequence.stream
            if RunCreated.TYPE.encode() in message.data:
                run_id = message.subject.rpartition(".")[2]
                found[run_id] = message.metadata.timestamp.timestamp() * 1000
    finally:
        await client.close()
    return found


# How fast


async def _chain(plan: Plan) -> list[Figure]:
    runs = 2_000 if plan.quick else 18_500
    async with _broker() as (server, log):
        events = await lay(log, runs)
        began = time.perf_counter()
        await sign(await audit_all(log))
        wrote = time.perf_counter() - began
        with TemporaryDirectory() as folder:
            return await _measured(plan, Commands(server.url, Path(folder)), events, wrote)


@asynccontextmanager
async def _broker() -> AsyncIterator[tuple[EmbeddedNats, JetStreamLog]]:
    """Give a broker without fsync: everything timed here but the auditor reads."""
    server = EmbeddedNats()
    server.start()
    try:
        connection = await connect(server.url, "bench")
        try:
            await ensure_log(connection, expect_log=False)
            yield server, JetStreamLog(connection)
        finally:
            await bounded_close(connection)
    finally:
        server.remove()


@dataclass
class Commands:
    """The commands themselves, start and all, and the most memory that one took."""

    nats_url: str
    folder: Path
    most_mb: dict[str, float] = field(default_factory=dict)

    async def timed(self, *words: str) -> tuple[float, str]:
        """Run `agentos audit …`; return the seconds and what it printed."""
        began = time.perf_counter()
        out = await asyncio.to_thread(self._run, words)
        return time.perf_counter() - began, out

    def _run(self, words: tuple[str, ...]) -> str:
        others = {k: v for k, v in os.environ.items() if not k.startswith("AGENTOS_")}
        ours = {"AGENTOS_NATS_URL": self.nats_url, "AGENTOS_DATA_DIR": str(self.folder),
                "AGENTOS_POSTGRES_DSN": "postgresql://none"}  # fmt: skip
        argv = [str(AGENTOS), "audit", *words]
        process = subprocess.Popen(
            argv, env=others | ours, cwd=self.folder, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        out = process.stdout.read()
        process.stdout.close()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise ValueError(f"agentos audit {' '.join(words)}: exit {process.returncode}: {out}")
        self.most_mb[words[0]] = max(self.most_mb.get(words[0], 0.0), usage.ru_maxrss / 1024)
        return out


async def _measured(plan: Plan, commands: Commands, events: int, wrote: float) -> list[Figure]:
    file = str(commands.folder / "audit.ndjson")
    in_log, exported, in_file = [], [], []
    found: dict[str, Any] = {}
    for _ in range(plan.repeats):
        seconds, out = await commands.timed("verify", "--tenant", TENANT, "--json")
        found = json.loads(out)
        in_log.append(found["records"] / seconds)
        seconds, _ = await commands.timed("export", "--tenant", TENANT, "-o", file)
        exported.append(found["records"] / seconds)
        seconds, out = await commands.timed("verify", file, "--json")
        in_file.append(json.loads(out)["records"] / seconds)
    records = found["records"]
    return [
        Figure(
            "audit",
            f"`agentos audit verify`, {records:,} records in a log of {events:,} events",
            "records/s",
            in_log,
            VERIFY,
            note="the whole commands, their start included",
        ),
        Figure("audit", "`agentos audit verify FILE`", "records/s", in_file, VERIFY),
        Figure("audit", "`agentos audit export`", "records/s", exported, VERIFY),
        Figure("audit", "most memory of a verification", "MiB", [commands.most_mb["verify"]]),
        Figure("audit", "most memory of an export", "MiB", [commands.most_mb["export"]]),
        Figure("audit", "records written by an auditor that is behind", "/s", [records / wrote]),
    ]
