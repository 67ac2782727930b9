"""Usage, quotas and copies of runs at peers: what goes of them, and what they are afterwards."""

import asyncio
from pathlib import Path

import pytest

from agentos.domain.admission import admission as admission_module
from agentos.domain.admission import ledger as ledger_module
from agentos.domain.admission.admission import admission_ref
from agentos.domain.admission.ledger import Ledger, ledger_ref
from agentos.domain.envelope import Event
from agentos.domain.federation.ingest import ingest_ref
from agentos.domain.federation.remote import RemoteRun, RunLinked, remote_ref
from agentos.domain.log import make_commit
from agentos.domain.run.events import Output
from agentos.domain.run.idempotency import EPOCH_MS
from agentos.domain.run.run import Run, run_ref
from agentos.domain.usage.usage import usage_ref
from agentos.handlers.balanced import catch_up
from agentos.handlers.routes import handle
from tests.domain.given import T0, TRACE, created, moment
from tests.handlers.node import caller, create
from tests.handlers.retention.world import DAY_MS, World, a_world, round_of

CALL = {
    "request_id": "req_1",
    "operation": "chat",
    "model_ref": "builtin/echo",
    "backend": "builtin",
    "model": "echo",
    "status": "ok",
    "usage": {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3},
    "cost_usd": 0.0,
    "latency_ms": 1,
}


async def send(world: World, name: str, **command: object) -> dict[str, object]:
    message = {"auth": caller().model_dump(), "command": {"traceparent": TRACE, **command}}
    return await handle(world.parts, name, message)


async def record_usage(world: World, batch: int) -> None:
    principal = {"principal_id": "usr_a"}
    calls = [{"principal": principal, "traceparent": TRACE, "usage": CALL}]
    await send(world, "usage.record", batch_id=f"bat_{batch}", after=0, calls=calls)


async def test_usage_goes_but_for_its_end_and_goes_on(tmp_path: Path) -> None:
    async with a_world(tmp_path) as world:
        for batch in range(5):
            await record_usage(world, batch)
        before = await world.node.log.read(usage_ref("tnt_a"))
        keeper = await world.keeper(others={"usage": "90d"})
        (applied,) = await round_of(keeper)
        assert (applied.kind, applied.items, applied.commits) == ("usage", 4, 4)
        assert await world.node.log.read(usage_ref("tnt_a")) == before[-1:]
        assert world.archived() == before[:-1]
        fresh = await world.node.handlers()
        world.parts = fresh
        await record_usage(world, 5)
        after = await world.node.log.read(usage_ref("tnt_a"))
        assert [record.first_sequence for record in after] == [5, 6]


async def test_usage_is_kept_where_there_is_no_archive(tmp_path: Path) -> None:
    async with a_world(tmp_path) as world:
        for batch in range(3):
            await record_usage(world, batch)
        keeper = await world.keeper(others={"usage": "90d"}, has_archive=False)
        assert await round_of(keeper) == []
        assert len(await world.node.log.read(usage_ref("tnt_a"))) == 3


async def test_quotas_go_up_to_their_balance_and_fold_as_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission_module, "BALANCE_EVERY", 4)
    monkeypatch.setattr(ledger_module, "BALANCE_EVERY", 4)
    async with a_world(tmp_path) as world:
        await world.ended(6)
        live = (await create(world.parts))["run"]["run_id"]
        for hold in range(7):
            holds = [{"hold_id": f"h{hold}", "amounts": {"tokens": 1}}]
            await send(world, "quota.reserve", resource="models", holds=holds)
        ledger = Ledger(ledger_ref("tnt_a", "models"))
        await catch_up(world.node.log, ledger)
        last = await world.node.log.last(admission_ref("tnt_a"))
        assert last is not None
        assert last.base
        keeper = await world.keeper(runs="forever", others={"quota": "90d"})
        (applied,) = await round_of(keeper)
        assert applied.kind == "quota"
        left = await world.node.log.read(admission_ref("tnt_a"))
        assert left[0].position == last.base
        again = Ledger(ledger_ref("tnt_a", "models"))
        await catch_up(world.node.log, again)
        assert (again.holds, again.counters) == (ledger.holds, ledger.counters)
        assert (again.position, again.sequence) == (ledger.position, ledger.sequence)
        later = await world.node.handlers()
        assert (await create(later))["existing"] is False
        assert live in later.desks.desk("tnt_a").admission.active


async def test_what_has_no_balance_is_kept(tmp_path: Path) -> None:
    async with a_world(tmp_path) as world:
        await world.ended(3)
        before = await world.node.log.read(admission_ref("tnt_a"))
        assert await round_of(await world.keeper(runs="forever", others={"quota": "1s"})) == []
        assert await world.node.log.read(admission_ref("tnt_a")) == before


def lines_of_a_run(world: World, run_id: str) -> list[str]:
    run = Run(run_ref("tnt_a", run_id))
    run.create("agt_a", created(), moment(T0, world.node.new_id))
    run.start("wrk_1", moment(T0, world.node.new_id))
    run.complete(Output(text="done"), moment(T0 + 5, world.node.new_id))
    return [
        line.decode() for line in make_commit(run.ref, run.collect(), world.node.new_id).lines()
    ]


async def copied(world: World, run_id: str) -> None:
    """Write the whole copy of a run at a peer, and what was pushed of it."""
    ref, log, new_id = remote_ref("tnt_a", run_id), world.node.log, world.node.new_id
    lines = lines_of_a_run(world, run_id)
    linked = RunLinked(
        stack_id="stk_b",
        forward_id="fwd_1",
        agent_id="agt_a",
        events_url="http://b/events",
        status="queued",
        created_at="2027-01-15T08:00:00.000Z",
        run_options={},
    )
    remote = RemoteRun(ref)

    async def write(events: list[Event]) -> None:
        commit = make_commit(ref, events, new_id)
        await log.append(commit, expected=remote.position)
        remote.fold(await log.read(ref, after=remote.position))

    await write(remote.link(linked, moment(T0, new_id)))
    await write(remote.copy([line.encode() for line in lines], moment(T0 + 9, new_id)))
    assert remote.has_ended
    pushed = {"source_stack_id": "stk_b", "run_id": run_id, "lines": lines}
    await send(world, "events.ingest", **pushed)


async def test_copies_of_runs_at_peers_go_with_what_was_pushed(tmp_path: Path) -> None:
    async with a_world(tmp_path) as world:
        await copied(world, "run_there")
        refs = [remote_ref("tnt_a", "run_there"), ingest_ref("tnt_a", "stk_b", "run_there")]
        assert len(await world.node.log.last_many(refs)) == 2
        young = await world.keeper(days=5, runs="forever", others={"remote_runs": "1d"})
        assert await round_of(young) == [], "its forward may be asked for again"
        days = (EPOCH_MS / DAY_MS) * 2 + 2
        old = await world.keeper(days=days, runs="forever", others={"remote_runs": "1d"})
        (applied,) = await round_of(old)
        assert (applied.kind, applied.items) == ("remote_runs", 1)
        assert await world.node.log.last_many(refs) == {}
        assert {record.ref for record in world.archived()} == set(refs)


async def test_kinds_go_one_after_the_other(tmp_path: Path) -> None:
    async with a_world(tmp_path) as world:
        await world.ended(1)
        await asyncio.gather(*(record_usage(world, batch) for batch in range(2)))
        await record_usage(world, 2)
        done = await round_of(await world.keeper(others={"usage": "1d"}))
        assert [applied.kind for applied in done] == ["runs", "usage"]
        assert await world.gone("usage") >= 1
        assert await world.gone("runs") == 1


async def test_a_push_of_a_run_that_was_ours_is_refused_also_when_it_went(tmp_path: Path) -> None:
    async with a_world(tmp_path) as world:
        (run_id,) = await world.ended(1)
        lines = lines_of_a_run(world, run_id)
        pushed = {"source_stack_id": "stk_b", "run_id": run_id, "lines": lines}
        before = await send(world, "events.ingest", **pushed)
        await round_of(await world.keeper())
        assert await world.kept([run_id]) == []
        assert await send(world, "events.ingest", **pushed) == before
        assert before["accepted"] == 0
        others = lines_of_a_run(world, "run_another")
        pushed = {"source_stack_id": "stk_b", "run_id": "run_another", "lines": others}
        assert (await send(world, "events.ingest", **pushed))["accepted"] == len(others)
