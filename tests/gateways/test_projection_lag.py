"""How far behind read models are: looked at when asked, and not guessed."""

import asyncio

import pytest
from prometheus_client import CollectorRegistry

from agentos.domain.errors import DependencyUnavailableError
from agentos.gateways.http import projection_lag
from agentos.gateways.http.projection_lag import ProjectionLag
from agentos.projections.queries import ProjectionPosition
from tests.gateways.conftest import Door, MemoryReads

NAME = "agentos_projection_lag_events"


class Given:
    """Positions and a head that a test sets."""

    def __init__(self) -> None:
        self.reads = MemoryReads()
        self.end = 10
        self.registry = CollectorRegistry()
        self.lag = ProjectionLag(self.reads.positions, self.head, self.registry)

    async def head(self) -> int:
        """Return the log's end."""
        return self.end

    def value(self, name: str) -> float | None:
        """Return a lag."""
        return self.registry.get_sample_value(NAME, {"projection": name})


async def test_each_projection_has_its_own() -> None:
    given = Given()
    given.reads.stand = [ProjectionPosition("runs", 7), ProjectionPosition("agents", 12)]
    await given.lag.refresh()
    assert (given.value("runs"), given.value("agents")) == (3, 0)
    given.end = 20
    await given.lag.refresh()
    assert (given.value("runs"), given.value("agents")) == (13, 8)


async def test_what_cannot_be_seen_is_not_shown() -> None:
    given = Given()
    given.reads.stand = [ProjectionPosition("runs", 7)]
    await given.lag.refresh()
    given.reads.down = DependencyUnavailableError("no", dependency="postgres")
    await given.lag.refresh()
    assert given.value("runs") is None
    given.reads.down = None
    await given.lag.refresh()
    assert given.value("runs") == 3


async def test_nobody_waits_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projection_lag, "WAIT_S", 0.01)
    given = Given()
    given.reads.stand = [ProjectionPosition("runs", 7)]

    async def never() -> int:
        await asyncio.Event().wait()
        return 0

    lag = ProjectionLag(given.reads.positions, never, CollectorRegistry())
    await asyncio.wait_for(lag.refresh(), 30)


async def test_every_scrape_looks(door: Door) -> None:
    door.reads.stand = [ProjectionPosition("runs", 0)]
    async with door.client.get("/metrics") as answer:
        text = await answer.text()
    assert f'{NAME}{{projection="runs"}}' in text
