"""Every adapter of `Places`: what is kept is there for the next one."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from itertools import count

import pytest
import pytest_asyncio

from agentos.domain.errors import DependencyUnavailableError
from agentos.infra.jetstream.connection import bounded_close, connect
from agentos.infra.jetstream.places import JetStreamPlaces
from agentos.infra.memory.places import MemoryPlaces
from agentos.projections.traces.places import Places
from tests.infra.embedded import EmbeddedNats


@pytest.fixture(scope="module")
def nats() -> Iterator[EmbeddedNats]:
    """A server."""
    server = EmbeddedNats()
    server.start()
    yield server
    server.remove()


@pytest_asyncio.fixture(params=["memory", "jetstream"])
async def places(request: pytest.FixtureRequest) -> AsyncIterator[Places]:
    """Each adapter."""
    if request.param == "memory":
        yield MemoryPlaces()
        return
    client = await connect(request.getfixturevalue("nats").url, "test")
    yield JetStreamPlaces(client)
    await bounded_close(client)


async def test_the_last_that_was_kept_counts(places: Places) -> None:
    assert await places.get("traces") is None
    await places.keep("traces", 7)
    await places.keep("other", 1)
    await places.keep("traces", 9)
    assert await places.get("traces") == 9
    assert await places.get("other") == 1


async def test_it_outlives_its_object(nats: EmbeddedNats) -> None:
    client = await connect(nats.url, "test")
    await JetStreamPlaces(client, bucket="kept").keep("traces", 2**53)
    assert await JetStreamPlaces(client, bucket="kept").get("traces") == 2**53
    await bounded_close(client)


async def test_without_a_broker_it_says_so(nats: EmbeddedNats) -> None:
    client = await connect(nats.url, "test")
    places = JetStreamPlaces(client)
    await bounded_close(client)
    with pytest.raises(DependencyUnavailableError):
        await places.get("traces")
    with pytest.raises(DependencyUnavailableError):
        await places.keep("traces", 1)


async def test_who_keeps_can_be_cancelled_at_any_moment(nats: EmbeddedNats) -> None:
    """A tracer that is told to stop is mostly keeping its position just then."""
    client = await connect(nats.url, "test")
    places = JetStreamPlaces(client, bucket="canceled")
    await places.keep("traces", 1)

    async def keep_for_ever() -> None:
        for position in count(1):
            await places.keep("traces", position)

    for number in range(100):
        keeping = asyncio.create_task(keep_for_ever())
        await asyncio.sleep(number / 40_000)
        keeping.cancel()
        done, _ = await asyncio.wait([keeping], timeout=10)
        assert done, "the cancellation was swallowed"
    await bounded_close(client)
