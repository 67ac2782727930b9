"""Replay: one run again, a policy tried on recorded calls, a capsule written."""

import asyncio
import resource
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from agentos.cli.replay_export import Chosen, export_runs
from agentos.cli.replay_policy import judge_all
from agentos.cli.replay_redactor import default_redactor
from agentos.cli.replay_sources import read_run
from agentos.domain.agent.agent import Agent, agent_ref
from agentos.domain.ids import make_id
from agentos.domain.log import Recorded, make_commit
from agentos.domain.policy.builtin import default_document
from agentos.domain.replay.proposal import read_proposal
from agentos.domain.replay.replay import Replay
from agentos.infra.capsules.keys import node_signer
from agentos.infra.capsules.writer import CapsuleWriter
from agentos.infra.jetstream.connection import bounded_close, connect
from agentos.infra.jetstream.log import JetStreamLog
from agentos.infra.jetstream.streams import ensure_log
from tests.bench.plan import Plan
from tests.bench.stats import AT_LEAST, AT_MOST, Figure, Goal
from tests.domain.given import T0, Ids, moment
from tests.domain.replay.recorder import DEFINITION, Recorder
from tests.infra.embedded import EmbeddedNats

TENANT: Final = "tnt_a"
STEPS: Final = 6
AT_ONCE: Final = 256


def a_run() -> Recorder:
    """Make a run of some 50 events: model and tool calls in turn, with words to look at."""
    made = Recorder("Please write to anna@example.org about order 4711 and its delivery.").start()
    for step in range(STEPS):
        made.model(f"I will look into it, step {step}.", ["tool.echo"])
        made.tools([{"found": "the parcel has left the depot", "step": step}])
    return made.model("Your parcel is on its way; you will hear from anna@example.org.")


async def replay(plan: Plan) -> list[Figure]:
    """Measure on a broker without fsync: everything here reads."""
    runs = 2_000 if plan.quick else 20_000  # 1.1 million events
    server = EmbeddedNats()
    server.start()
    try:
        connection = await connect(server.url, "bench")
        try:
            await ensure_log(connection, expect_log=False)
            return await _measured(JetStreamLog(connection), plan, runs)
        finally:
            await bounded_close(connection)
    finally:
        server.remove()


async def _measured(log: JetStreamLog, plan: Plan, runs: int) -> list[Figure]:
    events = await lay(log, runs)
    one = [await _one(log) for _ in range(plan.repeats)]
    tried = [await _policy(log) for _ in range(plan.repeats)]
    with TemporaryDirectory() as folder:
        written = [await _export(log, Path(folder), redacted=False) for _ in range(plan.repeats)]
        hidden = [await _export(log, Path(folder), redacted=True) for _ in range(plan.repeats)]
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return [
        Figure(
            "replay",
            f"a run of {len(a_run().run.results) * 8 + 7} events read and decided again",
            "ms",
            one,
            Goal(AT_MOST, 50.0),
        ),
        Figure(
            "replay",
            f"policy tried on the calls of {runs:,} runs, {events:,} events",
            "decisions/s",
            tried,
            Goal(AT_LEAST, 5_000.0),
        ),
        Figure("replay", "export, not redacted", "events/s", written, Goal(AT_LEAST, 20_000.0)),
        Figure("replay", "export, redacted", "events/s", hidden, Goal(AT_LEAST, 20_000.0)),
        Figure("replay", "most memory of the process behind all of it", "MiB", [grown]),
    ]


async def lay(log: JetStreamLog, runs: int) -> int:
    """Write an agent and so many runs; returns how many events."""
    new_id, agent = Ids(10**6), Agent(agent_ref(TENANT, "agt_a"))
    await log.append(
        make_commit(agent.ref, agent.register(DEFINITION, moment()), new_id), expected=0
    )
    template = a_run().records
    room = asyncio.Semaphore(AT_ONCE)

    async def write(number: int) -> None:
        async with room:
            position = 0
            run_id = make_id("run", T0, number)
            for record in template:
                position = await log.append(_copy(record, run_id, number), expected=position)

    await asyncio.gather(*(write(number) for number in range(runs)))
    return runs * sum(len(record.types) for record in template)


def _copy(record: Recorded, run_id: str, number: int) -> Recorded:
    return replace(
        record,
        ref=record.ref._replace(aggregate_id=run_id),
        commit_id=f"{record.commit_id}_{number}",
        body=record.body.replace(b'"run_1"', f'"{run_id}"'.encode()),
    )


async def _one(log: JetStreamLog) -> float:
    """Return the ms that one replay takes, its reading included."""
    began = time.perf_counter()
    found = await read_run(log, TENANT, make_id("run", T0, 7))
    result = Replay(found.ref, found.definition).feed(found.records).result()
    took = (time.perf_counter() - began) * 1000
    if not result.equal:
        raise ValueError(f"the run is not equal: {result.first_difference}")
    return took


async def _policy(log: JetStreamLog) -> float:
    """Return how many decisions a second are tried."""
    proposal = read_proposal(default_document().model_dump(mode="json"))
    began = time.perf_counter()
    total, _ = await judge_all(log, proposal, 0, None)
    return total.decisions / (time.perf_counter() - began)


async def _export(log: JetStreamLog, folder: Path, *, redacted: bool) -> float:
    """Return how many events a second go into a capsule."""
    about = {
        "capsule_id": "cap_1",
        "created_at": "2026-01-01T00:00:00.000Z",
        "node": "stk_a",
        "agentos_version": "0",
        "redacted_by": None,
    }
    redact = default_redactor().redact if redacted else None
    everything = Chosen(between=("2000-01-01T00:00:00.000Z", "2100-01-01T00:00:00.000Z"))
    began = time.perf_counter()
    with CapsuleWriter(folder / "a.capsule", node_signer(folder), about) as writer:
        await export_runs(log, TENANT, everything, writer, redact)
    return writer.events / (time.perf_counter() - began)
