"""The servers of all tests, here from the official images."""

from collections.abc import Iterator
from typing import TypeVar

import pytest

from tests.containers.servers import ContainerNats, ContainerPostgres
from tests.projections.conftest import *  # noqa: F403 - the fixtures of the projections' suites

Server = TypeVar("Server", ContainerNats, ContainerPostgres)


@pytest.fixture(scope="session")
def nats_server() -> Iterator[ContainerNats]:
    """A NATS server shared by all tests."""
    yield from _kept(ContainerNats())


@pytest.fixture
def own_nats_server() -> Iterator[ContainerNats]:
    """A NATS server for one test alone."""
    yield from _kept(ContainerNats())


@pytest.fixture
def power_nats_server() -> Iterator[ContainerNats]:
    """A NATS server for one test alone that fsyncs before it acknowledges."""
    yield from _kept(ContainerNats(sync_always=True))


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[ContainerPostgres]:
    """A PostgreSQL shared by all tests."""
    yield from _kept(ContainerPostgres())


@pytest.fixture
def own_postgres_server() -> Iterator[ContainerPostgres]:
    """A PostgreSQL for one test alone."""
    yield from _kept(ContainerPostgres())


def _kept(server: Server) -> Iterator[Server]:
    try:
        server.begin()
        yield server
    finally:
        server.remove()
