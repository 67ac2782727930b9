"""The contract of the work queue, kept by every adapter."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import fields, replace

import pytest

from agentos.domain.log import Commit, Lease, Recorded
from agentos.domain.ports import RunQueue, WorkItem
from agentos.domain.subjects import WORK_STREAM, StreamRef
from agentos.infra.jetstream import api
from agentos.infra.jetstream.queue import JetStreamQueue
from agentos.infra.jetstream.streams import ensure_work
from agentos.infra.memory.queue import MemoryQueue
from tests.contracts.logs import commit, connected, run, until
from tests.infra.embedded import EmbeddedNats


@pytest.fixture(params=["memory", "jetstream"])
async def queue(request: pytest.FixtureRequest) -> AsyncIterator[RunQueue]:
    if request.param == "memory":
        yield MemoryQueue()
        return
    server: EmbeddedNats = request.getfixturevalue("nats_server")
    async with connected(server.url) as connection:
        await ensure_work(connection)
        await api.call(connection, f"STREAM.PURGE.{WORK_STREAM}")
        jetstream = JetStreamQueue(connection)
        yield jetstream
        jetstream.close()
        await api.call(connection, f"STREAM.DELETE.{WORK_STREAM}")


def recorded(written: Commit, position: int) -> Recorded:
    """Return a commit as the log holds it."""
    values = {field.name: getattr(written, field.name) for field in fields(Commit)}
    return Recorded(**values, position=position)


async def test_an_item_comes_back_whole(queue: RunQueue) -> None:
    created = replace(
        commit(run("a"), 1, "agentos.run.created", body=b'{"text":"\xc3\xa4\\n"}'),
        command_id="cmd_1",
        causation_id="evt_1",
        lease=Lease("wrk_1", 5),
        base=3,
        priority="low",
    )
    started = commit(run("a"), 2, "agentos.run.started", "agentos.run.step.started")
    item = WorkItem(run("a"), 9, (recorded(created, 7), recorded(started, 9)))
    await queue.put(item)
    assert await queue.take(10, 5) == [item]


async def test_an_item_may_have_no_records(queue: RunQueue) -> None:
    await queue.put(WorkItem(run("a"), 9))
    assert await queue.take(10, 5) == [WorkItem(run("a"), 9)]


async def test_items_come_in_order_and_no_more_than_asked_for(queue: RunQueue) -> None:
    items = [WorkItem(run(f"r{n}"), n) for n in range(1, 10)]
    for item in items:
        await queue.put(item)
    taken: list[WorkItem] = []
    while len(taken) < 9:
        some = await queue.take(4, 5)
        assert 0 < len(some) <= 4
        taken += some
    assert taken == items


async def test_a_run_offered_twice_is_kept_once(queue: RunQueue) -> None:
    await queue.put(WorkItem(run("a"), 5))
    await queue.put(WorkItem(run("a"), 5))
    await queue.put(WorkItem(run("b"), 6))
    taken: list[WorkItem] = []
    while WorkItem(run("b"), 6) not in taken:
        taken += await queue.take(10, 5)
    assert taken == [WorkItem(run("a"), 5), WorkItem(run("b"), 6)]


async def test_a_newer_item_replaces_the_older(queue: RunQueue) -> None:
    await queue.put(WorkItem(run("a"), 5))
    await queue.put(WorkItem(run("a"), 8))
    await queue.put(WorkItem(run("b"), 6))
    taken: list[WorkItem] = []
    while WorkItem(run("b"), 6) not in taken:
        taken += await queue.take(10, 5)
    assert taken == [WorkItem(run("a"), 8), WorkItem(run("b"), 6)]


async def test_runs_of_two_tenants_with_one_id_are_two(queue: RunQueue) -> None:
    items = [WorkItem(run("a", "tnt_a"), 1), WorkItem(run("a", "tnt_b"), 2)]
    for item in items:
        await queue.put(item)
    taken: list[WorkItem] = []
    while len(taken) < 2:
        taken += await queue.take(10, 5)
    assert taken == items


async def test_an_empty_queue_answers_when_the_time_is_up(queue: RunQueue) -> None:
    begun = time.monotonic()
    assert await queue.take(10, 0.2) == []
    assert 0.15 < time.monotonic() - begun < 1.5
    assert await queue.take(10, 0) == []


async def test_a_waiting_take_gets_what_comes(queue: RunQueue) -> None:
    waiting = asyncio.ensure_future(queue.take(10, 10))
    assert await queue.take(10, 0.05) == []
    await queue.put(WorkItem(run("a"), 1))
    assert await waiting == [WorkItem(run("a"), 1)]


async def test_a_cancelled_take_loses_nothing(queue: RunQueue) -> None:
    waiting = asyncio.ensure_future(queue.take(10, 10))
    assert await queue.take(10, 0.05) == []
    waiting.cancel()
    await asyncio.wait((waiting,))
    await queue.put(WorkItem(run("a"), 1))
    assert await queue.take(10, 5) == [WorkItem(run("a"), 1)]


async def test_done_strikes_an_item_off(queue: RunQueue) -> None:
    await queue.put(WorkItem(run("a"), 1))
    await queue.put(WorkItem(run("b"), 2))
    taken: list[WorkItem] = []
    while len(taken) < 2:
        taken += await queue.take(10, 5)
    assert await queue.size() == 2
    await queue.done(taken[0])

    async def one_left() -> bool:
        return await queue.size() == 1

    await until(one_left)


async def test_what_is_not_done_comes_again(queue: RunQueue) -> None:
    await queue.put(WorkItem(run("a"), 1))
    await queue.put(WorkItem(run("b"), 2))
    taken: list[WorkItem] = []
    while len(taken) < 2:
        taken += await queue.take(10, 5)
    await queue.done(taken[1])
    assert await queue.take(10, 10) == [WorkItem(run("a"), 1)]


async def test_done_with_an_old_item_leaves_the_new_one(queue: RunQueue) -> None:
    await queue.put(WorkItem(run("a"), 1))
    (old,) = await queue.take(10, 5)
    await queue.put(WorkItem(run("a"), 4))
    await queue.done(old)
    assert await queue.take(10, 5) == [WorkItem(run("a"), 4)]


async def test_ids_that_do_not_fit_never_reach_a_subject(queue: RunQueue) -> None:
    for bad in ("run_a.b", "run_*", ">", "run_a b", ""):
        with pytest.raises(ValueError, match="not fit for a subject"):
            await queue.put(WorkItem(StreamRef("tnt_a", "run", bad), 1))
        with pytest.raises(ValueError, match="not fit for a subject"):
            await queue.put(WorkItem(StreamRef(bad, "run", "run_a"), 1))
    assert await queue.size() == 0
