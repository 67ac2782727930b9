"""Each process of a node is killed under load: nothing that was acknowledged is lost."""

import asyncio
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

import pytest

from agentos.domain.admission.admission import Admission, admission_ref
from agentos.domain.run.run import Run, run_ref
from tests.journeys.load import Ledger, SteadyClient
from tests.journeys.real_node import FINAL, Client, RealNode, eventually, lives, real_node

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

KILLED: Final = ("nats", "postgres", "handlers", "executor", "projector", "gateway")
ROUNDS: Final = 2
CLIENTS: Final = 6
BACK_WITHIN_S: Final = 10.0
SETTLE_S: Final = 0.5
TENANT: Final = "tnt_demo"
AGENT: Final = "agt_chaos"
PROBE: Final = "tool.probe.idempotent"
TEXT: Final = (
    'call tool.probe.idempotent {"sleep_ms": 40}\nsleep 40\n'
    'call tool.probe.idempotent {"sleep_ms": 40}\ncalculate 6 * 7'
)


@pytest.fixture
def node() -> Iterator[RealNode]:
    with real_node() as node:
        yield node


async def test_killing_each_process_under_load_loses_nothing(node: RealNode) -> None:
    ledger = Ledger()
    took: dict[str, list[float]] = {name: [] for name in KILLED}
    async with node.client() as client:
        await client.register(AGENT, tools=[PROBE, "tool.calculate"])
        steady = SteadyClient(client, ledger, AGENT, TEXT)
        clients = [asyncio.create_task(steady.run(f"client-{i}")) for i in range(CLIENTS)]
        for turn in range(ROUNDS):
            for name in KILLED:
                took[name].append(await kill_and_recover(node, client, steady, f"{turn}", name))
        steady.stop.set()
        await asyncio.wait_for(asyncio.gather(*clients), 60)
        print(json.dumps({"recovery_s": took, "hiccups": ledger.hiccups, "n": len(ledger.runs)}))
        assert not ledger.wrong
        assert max(max(times) for times in took.values()) <= BACK_WITHIN_S
        await check_the_books(node, client, ledger)

    await the_supervisor_dies(node)


async def kill_and_recover(
    node: RealNode, client: Client, steady: SteadyClient, turn: str, name: str
) -> float:
    """Kill a process; return the seconds until the node does everything again.

    Another process stands in its place, the node says that it is ready, a run that is asked
    for now has ended, and the read model shows it. (`/readyz` alone may be a second late.)
    """
    pid, _ = (await asyncio.to_thread(node.states))[name]
    assert pid is not None
    began = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    async with asyncio.timeout(BACK_WITHIN_S * 3):
        while True:
            now, state = (await asyncio.to_thread(node.states))[name]
            if now not in (None, pid) and state == "running" and await client.is_ready():
                break
            await asyncio.sleep(0.02)
        run_id = await steady.one(f"after-{name}-{turn}")
        while not await client.is_ready() or not await is_shown(node, run_id):  # noqa: ASYNC110 - two processes
            await asyncio.sleep(0.02)
    took = time.monotonic() - began
    await asyncio.sleep(SETTLE_S)  # some load on the healthy node before the next kill
    return took


async def is_shown(node: RealNode, run_id: str) -> bool:
    """Return whether the read model has the run's end."""
    rows = await node.rows("SELECT run_id FROM agentos.runs WHERE status = 'completed'")
    return run_id in {row["run_id"] for row in rows}


async def check_the_books(node: RealNode, client: Client, ledger: Ledger) -> None:
    """Everything that clients were told is in the log, once, and the read model agrees."""
    attempts: Counter[str] = Counter()
    for run_id, events in ledger.ended.items():
        check_events(events)
        assert events == await client.events(run_id)
        calls = [
            e
            for e in events
            if e["type"] == "agentos.tool.call.requested" and e["payload"]["tool_id"] == PROBE
        ]
        starts = sum(e["type"] == "agentos.run.started" for e in events)
        attempts.update({e["payload"]["tool_call_id"]: starts for e in calls})
    ids = [e["event_id"] for events in ledger.ended.values() for e in events]
    assert len(ids) == len(set(ids))
    made = Counter((node.directory / "idempotent.calls").read_text().split())
    assert set(made) == set(attempts)
    assert all(times <= attempts[call] for call, times in made.items())
    for key, run_id in list(ledger.runs.items())[::5]:
        body = {"input": {"type": "text", "text": TEXT}, "idempotency_key": key}
        status, again = await client.ask("POST", f"/v1/agents/{AGENT}/runs", json=body)
        assert (status, again["run"]["run_id"]) == (200, run_id)
    await check_read_model(node, set(ledger.runs.values()))


def check_events(events: list[dict[str, Any]]) -> None:
    """One final event and nothing after it, no gap, and no call or step with two results."""
    assert [e["sequence"] for e in events] == list(range(1, len(events) + 1))
    finals = [e for e in events if not e["step_id"] and e["payload"].get("status") in FINAL]
    assert finals == events[-1:]
    assert events[-1]["type"] == "agentos.run.completed"
    for kind, key in (
        ("agentos.tool.call.completed", "tool_call_id"),
        ("agentos.model.completed", "request_id"),
        ("agentos.run.step.completed", "step_id"),
    ):
        results = Counter(e["payload"].get(key, e["step_id"]) for e in events if e["type"] == kind)
        assert results
        assert set(results.values()) == {1}, (kind, results)


async def check_read_model(node: RealNode, acknowledged: set[str]) -> None:
    """The log holds the acknowledged runs and no other; rows are its fold; no slot is held."""
    async with node.log() as log, asyncio.timeout(20):
        ref = admission_ref(TENANT)
        while True:
            admission = Admission(ref)
            admission.catch_up(await log.read(ref))
            head = await log.head()
            positions = await node.rows("SELECT position FROM agentos.projections")
            if not admission.active and min(row["position"] for row in positions) >= head:
                break
            await asyncio.sleep(0.1)
        rows = await node.rows("SELECT * FROM agentos.runs")
        assert {row["run_id"] for row in rows} == acknowledged
        for row in rows:
            run = Run(run_ref(TENANT, row["run_id"]))
            run.fold(await log.read(run.ref))
            folded = {"status": run.status, "sequence": run.sequence, "position": run.position}
            folded |= run.summary.model_dump(include={"steps_total", "tool_calls_total"})
            assert {name: row[name] for name in folded} == folded


async def the_supervisor_dies(node: RealNode) -> None:
    """A later `up` takes the node over, and `down` leaves no process behind."""
    before = node.pids()
    os.kill(before["supervisor"], signal.SIGKILL)
    await eventually(lambda: not lives(before["supervisor"]), 5, "the supervisor is dead")
    await asyncio.to_thread(node.up)
    after = node.pids()
    assert node.status()["state"] == "ready"
    assert after["supervisor"] != before["supervisor"]
    async with node.client() as client:
        run = await client.wait(await client.start("still here"))
        assert run["status"] == "completed"
    orphans = {name: pid for name, pid in before.items() if pid not in after.values()}
    assert not [name for name, pid in orphans.items() if lives(pid)]
    os.kill(after["supervisor"], signal.SIGKILL)
    await eventually(lambda: not lives(after["supervisor"]), 5, "the supervisor is dead")
    await asyncio.to_thread(node.down)
    await eventually(lambda: not node.own_processes(), 5, "no process is left")
    assert not [name for name, pid in after.items() if lives(pid)]
