"""The work queue across restarts of its broker, which forgets it."""

import asyncio

from agentos.domain.ports import WorkItem
from agentos.domain.subjects import WORK_STREAM
from agentos.infra.jetstream import api
from agentos.infra.jetstream.queue import JetStreamQueue
from agentos.infra.jetstream.streams import ensure_work
from tests.contracts.logs import connected, run
from tests.infra.embedded import EmbeddedNats


async def take_one(queue: JetStreamQueue) -> WorkItem:
    """Take until something comes."""
    async with asyncio.timeout(15):
        while True:
            for item in await queue.take(8, 0.5):
                return item


async def offer_until_taken(queue: JetStreamQueue, item: WorkItem) -> WorkItem:
    """Offer and take as a sweep and an executor do, until the item comes through."""
    taking = asyncio.ensure_future(take_one(queue))
    while not taking.done():
        await queue.put(item)
        await asyncio.wait((taking,), timeout=0.1)
    return await taking


async def test_a_waiting_executor_outlives_the_broker(own_nats_server: EmbeddedNats) -> None:
    async with connected(own_nats_server.url) as connection:
        await ensure_work(connection)
        queue = JetStreamQueue(connection)
        await queue.put(WorkItem(run("a"), 1))
        assert await take_one(queue) == WorkItem(run("a"), 1)
        taking = asyncio.ensure_future(take_one(queue))
        await asyncio.sleep(0)
        await asyncio.to_thread(own_nats_server.restart)
        while not taking.done():
            await queue.put(WorkItem(run("b"), 2))
            await asyncio.wait((taking,), timeout=0.1)
        assert await taking == WorkItem(run("b"), 2)
        queue.close()


async def test_a_queue_that_was_deleted_is_made_again(own_nats_server: EmbeddedNats) -> None:
    async with connected(own_nats_server.url) as connection:
        queue = JetStreamQueue(connection)
        assert await queue.take(8, 0.1) == []
        assert await offer_until_taken(queue, WorkItem(run("a"), 1)) == WorkItem(run("a"), 1)
        await api.call(connection, f"STREAM.DELETE.{WORK_STREAM}")
        assert await queue.size() == 0
        assert await offer_until_taken(queue, WorkItem(run("b"), 2)) == WorkItem(run("b"), 2)
        queue.close()


async def test_without_a_broker_nothing_hangs(own_nats_server: EmbeddedNats) -> None:
    async with connected(own_nats_server.url) as connection:
        queue = JetStreamQueue(connection)
        assert await queue.take(8, 0.1) == []
        own_nats_server.kill()
        async with asyncio.timeout(5):
            await queue.put(WorkItem(run("a"), 1))
            assert await queue.take(8, 0.2) == []
            assert await queue.take(8, 0.2) == []


async def test_two_executors_share_the_work(own_nats_server: EmbeddedNats) -> None:
    url = own_nats_server.url
    async with connected(url) as one, connected(url) as two:
        queues = [JetStreamQueue(one), JetStreamQueue(two)]
        for queue in queues:
            assert await queue.take(4, 0.1) == []
        for number in range(40):
            await queues[0].put(WorkItem(run(f"r{number}"), number + 1))
        taken: list[list[WorkItem]] = [[], []]
        async with asyncio.timeout(10):
            while sum(map(len, taken)) < 40:
                for queue, mine in zip(queues, taken, strict=True):
                    for item in await queue.take(4, 0.05):
                        mine.append(item)
                        await queue.done(item)
        positions = sorted(item.position for mine in taken for item in mine)
        assert positions == list(range(1, 41))
        assert all(taken)
        for queue in queues:
            queue.close()


async def test_an_executor_that_closes_hands_back_what_it_did_not_take(
    own_nats_server: EmbeddedNats,
) -> None:
    url = own_nats_server.url
    async with connected(url) as one, connected(url) as two:
        leaving, staying = JetStreamQueue(one), JetStreamQueue(two)
        assert await leaving.take(4, 0.1) == []
        for number in range(1, 5):
            await staying.put(WorkItem(run(f"r{number}"), number))
        await two.flush()
        await one.flush()
        assert [item.position for item in await leaving.take(1, 5)] == [1]
        leaving.close()
        await one.flush()
        back: list[int] = []
        async with asyncio.timeout(2.5):  # before the time to acknowledge is over
            while len(back) < 3:
                back += [item.position for item in await staying.take(8, 1)]
        assert sorted(back) == [2, 3, 4]
        staying.close()
