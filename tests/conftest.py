"""Fixtures for all tests: real embedded servers, one of each per test worker."""

from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.infra.embedded import EmbeddedNats, EmbeddedPostgres

# How long an example takes says how busy the machine is, not whether it holds.
settings.register_profile("ours", deadline=None)
settings.load_profile("ours")


@pytest.fixture(scope="session")
def nats_server() -> Iterator[EmbeddedNats]:
    """A running NATS server without fsync, shared by the tests of this worker."""
    server = EmbeddedNats()
    server.start()
    yield server
    server.remove()


@pytest.fixture
def own_nats_server() -> Iterator[EmbeddedNats]:
    """A running NATS server for one test alone: kill and restart it as you like."""
    server = EmbeddedNats()
    server.start()
    yield server
    server.remove()


@pytest.fixture
def power_nats_server() -> Iterator[EmbeddedNats]:
    """A running NATS server for one test alone that fsyncs before it acknowledges."""
    server = EmbeddedNats(sync_always=True)
    server.start()
    yield server
    server.remove()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[EmbeddedPostgres]:
    """A running PostgreSQL, shared by the tests of this worker: use a schema of your own."""
    server = EmbeddedPostgres()
    server.start()
    yield server
    server.remove()


@pytest.fixture
def own_postgres_server() -> Iterator[EmbeddedPostgres]:
    """A running PostgreSQL for one test alone: kill and restart it as you like."""
    server = EmbeddedPostgres()
    server.start()
    yield server
    server.remove()
