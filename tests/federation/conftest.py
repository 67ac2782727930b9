"""Nodes and peers for the tests of federation."""

from collections.abc import AsyncIterator

import pytest

from agentos.domain.federation.peer import PeerEntry
from tests.federation.fake_peer import FakePeer
from tests.federation.node import FedNode


@pytest.fixture
def fake() -> FakePeer:
    """A peer whose answers the test writes."""
    return FakePeer()


@pytest.fixture
async def fake_entry(fake: FakePeer) -> AsyncIterator[PeerEntry]:
    """How the node knows it."""
    async with fake.serving() as found:
        yield found


@pytest.fixture
async def node(fake_entry: PeerEntry) -> AsyncIterator[FedNode]:
    """A node whose only peer is the fake one."""
    opened = await FedNode("stk_a").open([fake_entry])
    yield opened
    await opened.close()
