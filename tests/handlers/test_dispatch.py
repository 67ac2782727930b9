"""Dispatch: a tenant's share of the queue, its line behind that, and nothing lost or leaked."""

import orjson
import pytest

from agentos.domain.errors import RateLimitedError
from agentos.domain.ports import WorkItem
from agentos.domain.run.run import run_ref
from agentos.domain.subjects import heartbeat
from agentos.handlers.dispatch import MAX_WAITING
from agentos.handlers.sweep import sweep
from tests.handlers.node import Node, a_node, cancel, create, settle
from tests.handlers.virtual import virtual_time


async def waiting(node: Node) -> list[str]:
    """Return the runs in the queue, first come first."""
    return [entry.item.ref.aggregate_id for entry in node.queue._entries.values()]


@virtual_time
async def test_no_more_than_its_slots_are_out_per_tenant() -> None:
    async with a_node() as node:
        await node.tenant()
        await node.tenant("tnt_b")
        parts = await node.handlers(slots=3)
        runs = [(await create(parts))["run"]["run_id"] for _ in range(10)]
        other = (await create(parts, tenant_id="tnt_b"))["run"]["run_id"]
        assert await waiting(node) == [*runs[:3], other]
        taken: list[str] = []
        while items := await node.queue.take(1, 0):
            assert await node.queue.size() <= 4
            for item in items:
                await node.queue.done(item)
                taken.append(item.ref.aggregate_id)
                await node.finish(item.ref.aggregate_id, item.ref.tenant_id)
            await settle()
        assert taken == [*runs[:3], other, *runs[3:]]


@virtual_time
async def test_who_waits_goes_by_priority_then_by_age() -> None:
    async with a_node() as node:
        await node.tenant()
        parts = await node.handlers(slots=1)
        first = (await create(parts))["run"]["run_id"]
        by_name = {}
        for name in ("low", "normal", "normal2", "high", "high2"):
            run = await create(parts, priority=name.rstrip("2"))
            by_name[run["run"]["run_id"]] = name
        order = []
        run_id = first
        while True:
            (item,) = await node.queue.take(1, 0)
            assert item.ref.aggregate_id == run_id
            await node.queue.done(item)
            await node.finish(run_id)
            await settle()
            if not (left := await waiting(node)):
                break
            (run_id,) = left
            order.append(by_name[run_id])
        assert order == ["high", "high2", "normal", "normal2", "low"]


@virtual_time
async def test_canceling_what_waits_gives_no_place_away_and_keeps_none() -> None:
    async with a_node() as node:
        await node.tenant()
        parts = await node.handlers(slots=2)
        held = [(await create(parts))["run"]["run_id"] for _ in range(2)]
        for _ in range(300):
            await cancel(parts, (await create(parts))["run"]["run_id"])
        last = (await create(parts))["run"]["run_id"]
        await settle()
        assert await waiting(node) == held
        line = parts.dispatcher._lines["tnt_a"]
        assert line.members == {last}
        assert len(line.heap) < 100
        await cancel(parts, held[0])
        await settle()
        assert await waiting(node) == [*held, last], (
            "the canceled one's item is struck off when taken"
        )
        await cancel(parts, held[1])
        await cancel(parts, last)
        await settle()
        await sweep(parts)
        assert not parts.dispatcher._out
        assert not parts.dispatcher._lines


@virtual_time
async def test_a_canceled_run_in_the_middle_of_the_line_is_passed_over() -> None:
    async with a_node() as node:
        await node.tenant()
        parts = await node.handlers(slots=1)
        first, second, third = [(await create(parts))["run"]["run_id"] for _ in range(3)]
        await cancel(parts, second)
        await node.finish(first)
        await settle()
        assert third in await waiting(node)
        assert second not in await waiting(node)


@virtual_time
async def test_a_run_that_ended_before_it_was_counted_out_gives_its_place_back() -> None:
    async with a_node() as node:
        await node.tenant()
        parts = await node.handlers(slots=1)
        parts.dispatcher._out["tnt_a"].add("run_gone")
        run_id = (await create(parts))["run"]["run_id"]
        assert await waiting(node) == []
        await sweep(parts)
        await sweep(parts)
        await settle()
        assert await waiting(node) == [run_id]


@virtual_time
async def test_an_executor_that_was_never_heard_has_a_moment_to_speak_up() -> None:
    async with a_node() as node:
        parts = await node.handlers()
        assert not parts.dispatcher.is_silent("wrk_9")
        await settle(2.1)
        assert parts.dispatcher.is_silent("wrk_9")
        await node.beat("wrk_9")
        assert not parts.dispatcher.is_silent("wrk_9")
        await node.beat("wrk_9", leaving=True)
        assert parts.dispatcher.is_silent("wrk_9")


@virtual_time
async def test_ten_thousand_runs_of_one_tenant_stand_before_nobody_elses() -> None:
    async with a_node() as node:
        parts = await node.handlers(slots=64)
        for number in range(10_000):
            item = WorkItem(run_ref("tnt_a", f"run_{number}"), number + 1)
            await parts.dispatcher.offer(item, "normal")
        await parts.dispatcher.offer(WorkItem(run_ref("tnt_b", "run_b"), 20_000), "low")
        queued = await waiting(node)
        assert len(queued) == 65
        assert queued[-1] == "run_b"
        assert parts.dispatcher.waiting() == {"high": 0, "normal": 10_000 - 64, "low": 0}


@virtual_time
async def test_a_line_that_is_as_long_as_it_may_get_takes_no_more() -> None:
    async with a_node() as node:
        parts = await node.handlers(slots=1)
        for number in range(MAX_WAITING + 1):
            item = WorkItem(run_ref("tnt_a", f"run_{number}"), number + 1)
            await parts.dispatcher.offer(item, "normal")
        with pytest.raises(RateLimitedError) as refused:
            parts.dispatcher.require_room("tnt_a")
        assert refused.value.details["limit"] == MAX_WAITING
        parts.dispatcher.require_room("tnt_b")


def heartbeat_at(place: str, worker_id: str) -> bytes:
    return orjson.dumps({"service": "executor", "worker_id": worker_id, "place": place})


@virtual_time
async def test_a_successor_at_the_same_place_says_that_the_one_before_is_gone() -> None:
    async with a_node() as node:
        parts = await node.handlers()
        for worker in ("wrk_1", "wrk_2"):
            await node.signals.publish(heartbeat("executor", worker), heartbeat_at("p", worker))
            await settle()
        assert parts.dispatcher.is_silent("wrk_1")
        assert not parts.dispatcher.is_silent("wrk_2")


@virtual_time
async def test_a_place_that_two_share_says_nothing() -> None:
    async with a_node() as node:
        parts = await node.handlers()
        for worker in ("wrk_1", "wrk_2", "wrk_1", "wrk_2", "wrk_1"):
            await node.signals.publish(heartbeat("executor", worker), heartbeat_at("p", worker))
            await settle()
        assert not parts.dispatcher.is_silent("wrk_1")
        assert not parts.dispatcher.is_silent("wrk_2")


@virtual_time
async def test_many_tenants_share_what_there_is_and_leave_room_for_one_more() -> None:
    async with a_node() as node:
        parts = await node.handlers(slots=64)
        beat = {"service": "executor", "worker_id": "wrk_1", "slots": 120}
        await node.signals.publish(heartbeat("executor", "wrk_1"), orjson.dumps(beat))
        await settle()
        for tenant in range(5):
            for number in range(200):
                item = WorkItem(run_ref(f"tnt_{tenant}", f"run_{tenant}x{number}"), number + 1)
                await parts.dispatcher.offer(item, "normal")
        out = [run_id.split("x")[0] for run_id in await waiting(node)]
        assert [out.count(f"run_{tenant}") for tenant in range(5)] == [60, 40, 30, 24, 20]
