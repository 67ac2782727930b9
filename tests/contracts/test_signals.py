"""The contract of signals, kept by every adapter."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from agentos.domain import subjects
from agentos.domain.ports import Signals
from agentos.infra.jetstream.signals import NatsSignals
from agentos.infra.memory.signals import MemorySignals
from tests.contracts.logs import connected
from tests.infra.embedded import EmbeddedNats


@pytest.fixture(params=["memory", "nats"])
async def signals(request: pytest.FixtureRequest) -> AsyncIterator[Signals]:
    if request.param == "memory":
        yield MemorySignals()
        return
    server: EmbeddedNats = request.getfixturevalue("nats_server")
    async with connected(server.url) as connection:
        yield NatsSignals(connection)


class Inbox:
    """What a subscriber heard."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()

    def __call__(self, subject: str, data: bytes) -> None:
        self.queue.put_nowait((subject, data))

    async def next(self) -> tuple[str, bytes]:
        return await asyncio.wait_for(self.queue.get(), 5)


async def test_subscribers_hear_in_order(signals: Signals) -> None:
    inbox = Inbox()
    await signals.subscribe(subjects.ALL_HEARTBEATS, inbox)
    subject = subjects.heartbeat("executor", "wrk_1")
    for number in range(200):
        await signals.publish(subject, b"%d" % number)
    assert [await inbox.next() for _ in range(200)] == [(subject, b"%d" % n) for n in range(200)]


async def test_only_what_matches_is_heard(signals: Signals) -> None:
    one, all_of_tenant = Inbox(), Inbox()
    await signals.subscribe(subjects.delta("tnt_a", "run_1"), one)
    await signals.subscribe("delta.tnt_a.*", all_of_tenant)
    await signals.publish(subjects.delta("tnt_b", "run_1"), b"other tenant")
    await signals.publish("delta.tnt_a.run_1.deeper", b"too deep")
    await signals.publish("delta.tnt_a", b"too short")
    await signals.publish(subjects.delta("tnt_a", "run_2"), b"two")
    await signals.publish(subjects.delta("tnt_a", "run_1"), b"one")
    assert await one.next() == ("delta.tnt_a.run_1", b"one")
    assert await all_of_tenant.next() == ("delta.tnt_a.run_2", b"two")
    assert await all_of_tenant.next() == ("delta.tnt_a.run_1", b"one")


async def test_a_stopped_subscription_hears_nothing(signals: Signals) -> None:
    stopped, other = Inbox(), Inbox()
    stop = await signals.subscribe("hb.x", stopped)
    await signals.subscribe("hb.x", other)
    await signals.publish("hb.x", b"1")
    await stopped.next()
    await stop()
    await signals.publish("hb.x", b"2")
    assert [await other.next(), await other.next()] == [("hb.x", b"1"), ("hb.x", b"2")]
    assert stopped.queue.empty()


async def test_nobody_listening_is_no_error(signals: Signals) -> None:
    await signals.publish("hb.nobody", b"1")


async def test_an_error_in_a_subscriber_does_not_end_it(signals: Signals) -> None:
    inbox = Inbox()
    errors: asyncio.Queue[str] = asyncio.Queue()
    asyncio.get_running_loop().set_exception_handler(
        lambda _, context: errors.put_nowait(repr(context["exception"]))
    )

    def fragile(subject: str, data: bytes) -> None:
        if data == b"bad":
            raise RuntimeError("of the subscriber")
        inbox(subject, data)

    await signals.subscribe("hb.x", fragile)
    await signals.publish("hb.x", b"bad")
    await signals.publish("hb.x", b"good")
    assert await inbox.next() == ("hb.x", b"good")
    assert "of the subscriber" in await asyncio.wait_for(errors.get(), 5)
