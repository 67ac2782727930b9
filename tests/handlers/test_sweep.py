"""The sweep: whatever was left half done is found in the log and finished or taken back."""

import asyncio

import pytest

from agentos.domain.errors import AgentOSError, DependencyUnavailableError
from agentos.domain.log import Commit, Lease, make_commit
from agentos.domain.run.run import run_ref
from agentos.domain.tenant.tenant import Tenant
from agentos.handlers.sweep import sweep
from tests.domain.given import moment
from tests.handlers.node import Node, UnevenLog, a_node, create, settle
from tests.handlers.virtual import virtual_time


async def drain(node: Node) -> list[str]:
    """Take everything out of the queue; return the runs."""
    items = await node.queue.take(1000, 0)
    for item in items:
        await node.queue.done(item)
    return [item.ref.aggregate_id for item in items]


@virtual_time
async def test_a_reservation_without_a_run_is_closed_and_then_freed() -> None:
    async with a_node(log := UnevenLog()) as node:
        await node.tenant(max_concurrent_runs=1)
        parts = await node.handlers()
        log.fail = lambda commit: "before" if commit.ref.kind == "run" else None
        with pytest.raises(DependencyUnavailableError):
            await create(parts)
        log.fail = lambda _: None
        (orphan,) = (await node.admission()).active
        await sweep(parts)
        await settle()
        assert list((await node.admission()).active) == [orphan], "it may still be on its way"
        await asyncio.sleep(5.1)
        await sweep(parts)
        await settle()
        assert (await node.admission()).active == {}
        assert (await node.run(orphan)).is_void
        await create(parts)


@virtual_time
async def test_a_late_run_created_loses_and_its_caller_is_told() -> None:
    async with a_node(log := UnevenLog()) as node:
        await node.tenant(max_concurrent_runs=1)
        slow, other = await node.handlers(), await node.handlers()
        append = log.append
        sent = asyncio.Event()

        async def late(commit: Commit, *, expected: int) -> int:
            if commit.ref.kind == "run" and commit.types:
                sent.set()
                await asyncio.sleep(8)
            return await append(commit, expected=expected)

        log.append = late  # type: ignore[method-assign]  # a slow network, for run.created only
        asked = asyncio.ensure_future(create(slow))
        await sent.wait()
        await other.desks.desk("tnt_a").load()
        await asyncio.sleep(5.1)
        await sweep(other)
        with pytest.raises(AgentOSError) as caught:
            await asked
        assert caught.value.retryable
        await settle()
        assert (await node.admission()).active == {}
        assert await node.live() == set()


@virtual_time
async def test_runs_whose_work_items_were_lost_are_offered_again() -> None:
    async with a_node() as node:
        await node.tenant()
        parts = await node.handlers()
        run_ids = {(await create(parts))["run"]["run_id"] for _ in range(3)}
        assert set(await drain(node)) == run_ids
        await settle()
        await sweep(parts)
        assert await node.queue.size() == 0, "they may be in an executor's hands"
        await asyncio.sleep(2.1)
        await sweep(parts)
        assert set(await drain(node)) == run_ids


@virtual_time
async def test_in_a_queue_that_is_never_empty_a_lost_run_is_offered_in_the_end() -> None:
    async with a_node() as node:
        await node.tenant()
        await node.tenant("tnt_b")
        dead, parts = await node.handlers(), await node.handlers()
        lost = (await create(dead))["run"]["run_id"]
        await drain(node)
        busy = (await create(dead, tenant_id="tnt_b"))["run"]["run_id"]
        await settle()
        await asyncio.sleep(31)
        await sweep(parts)
        assert set(await drain(node)) == {lost, busy}


@virtual_time
async def test_a_process_that_starts_takes_in_what_is_unfinished() -> None:
    async with a_node() as node:
        await node.tenant(max_concurrent_runs=3)
        first = await node.handlers()
        done, queued, started = [(await create(first))["run"]["run_id"] for _ in range(3)]
        await node.finish(done)
        await node.start(started)
        await drain(node)
        second = await node.handlers()
        assert {ref.aggregate_id for ref in second.watch.runs} == {queued, started}
        await asyncio.sleep(3.1)
        await sweep(second)
        assert set(await drain(node)) == {queued, started}


@pytest.mark.parametrize("why", ["silent", "left", "overdue"])
def test_a_lease_that_ended_is_offered_to_others(why: str) -> None:
    @virtual_time
    async def check() -> None:
        async with a_node() as node:
            await node.tenant()
            parts = await node.handlers()
            run_id = (await create(parts))["run"]["run_id"]
            await drain(node)
            run = await node.run(run_id)
            run.start("wrk_1", moment(node.clock.now_ms(), node.new_id))
            lease = Lease("wrk_1", node.clock.now_ms() + 10_000)
            events = run.collect()
            await node.log.append(
                make_commit(run.ref, events, node.new_id, lease=lease), expected=run.position
            )
            await node.beat()
            for _ in range(9):
                await asyncio.sleep(1)
                await node.beat()
                await sweep(parts)
            assert await node.queue.size() == 0, "it is held"
            if why == "left":
                await node.beat(leaving=True)
            elif why == "silent":
                await asyncio.sleep(2.1)
            else:
                await asyncio.sleep(1.3)
                await node.beat()
                await sweep(parts)
                assert await node.queue.size() == 0
                await asyncio.sleep(0.3)
            await sweep(parts)
            (item,) = await node.queue.take(5, 0)
            assert item.ref.aggregate_id == run_id
            assert item.position == (await node.log.last(run.ref)).position  # type: ignore[union-attr]

    check()


@virtual_time
async def test_an_old_record_brings_no_run_back_that_has_ended() -> None:
    async with a_node() as node:
        await node.tenant()
        parts = await node.handlers()
        run_id = (await create(parts))["run"]["run_id"]
        await node.finish(run_id)
        await settle()
        parts.desks.desk("tnt_a").admission.active[run_id] = 0
        await sweep(parts)
        assert parts.watch.runs == {}


@virtual_time
async def test_nothing_of_a_tenant_stays_in_memory_when_its_runs_have_ended() -> None:
    async with a_node() as node:
        tenant: Tenant = await node.tenant()
        parts = await node.handlers(slots=4)
        run_ids = [(await create(parts))["run"]["run_id"] for _ in range(40)]
        for run_id in run_ids:
            await node.finish(run_id)
        await settle(1)
        await sweep(parts)
        dispatcher = parts.dispatcher
        assert parts.watch.runs == {}
        assert not dispatcher._out
        assert not dispatcher._lines
        assert parts.desks.desk(tenant.ref.tenant_id).admission.active == {}
        assert run_ref("tnt_a", run_ids[0]) not in parts.watch.moved
