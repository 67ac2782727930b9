"""The node's streams: made when they may be, never silently anew."""

import asyncio
from typing import Any

import pytest

from agentos.domain.errors import DependencyUnavailableError
from agentos.domain.subjects import WORK_STREAM, stream_name
from agentos.infra.jetstream import api
from agentos.infra.jetstream.log import JetStreamLog
from agentos.infra.jetstream.streams import (
    EXECUTORS,
    LogMismatchError,
    LogVanishedError,
    check_log,
    ensure_log,
    ensure_work,
    log_config,
    provision,
    stream_config,
)
from tests.contracts.logs import commit, connected, run
from tests.infra.embedded import EmbeddedNats


async def test_a_new_node_gets_its_streams_and_keeps_them(own_nats_server: EmbeddedNats) -> None:
    url = own_nats_server.url
    await provision(url, durability="power", expect_log=False)
    async with connected(url) as connection:
        await JetStreamLog(connection).append(commit(run("a")), expected=0)
    for expect_log in (True, False):
        await provision(url, durability="power", expect_log=expect_log)
    async with connected(url) as connection:
        assert await JetStreamLog(connection).head() == 1
        info = await api.call(connection, f"CONSUMER.INFO.{WORK_STREAM}.{EXECUTORS}")
        assert info["config"]["ack_policy"] == "explicit"


async def test_a_log_that_vanished_is_not_made_anew(own_nats_server: EmbeddedNats) -> None:
    with pytest.raises(LogVanishedError, match="restore a backup") as caught:
        await provision(own_nats_server.url, durability="power", expect_log=True)
    assert isinstance(caught.value, DependencyUnavailableError)
    assert caught.value.details == {"dependency": "nats"}
    async with connected(own_nats_server.url) as connection:
        assert await stream_config(connection, stream_name(0)) is None


async def test_a_foreign_stream_of_the_logs_name_is_refused(own_nats_server: EmbeddedNats) -> None:
    async with connected(own_nats_server.url) as connection:
        foreign: dict[str, Any] = {"name": "LOG_0", "subjects": ["foo"], "storage": "memory"}
        await api.call(connection, "STREAM.CREATE.LOG_0", foreign)
        with pytest.raises(LogMismatchError, match=r"subjects is .*foo"):
            await ensure_log(connection, expect_log=True)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("max_age", 1),
        ("max_msgs", 10),
        ("storage", "memory"),
        ("allow_direct", False),
        ("persist_mode", "async"),
    ],
)
def test_a_stream_that_forgets_is_no_log(key: str, value: object) -> None:
    wanted = log_config(0, 1)
    check_log(wanted | {"num_replicas": 3}, wanted)
    with pytest.raises(LogMismatchError, match=key):
        check_log(wanted | {key: value}, wanted)


async def test_the_work_queue_is_made_by_many_at_once_and_again_after_a_restart(
    own_nats_server: EmbeddedNats,
) -> None:
    async with connected(own_nats_server.url) as one, connected(own_nats_server.url) as two:
        await asyncio.gather(*(ensure_work(c) for c in (one, two, one, two)))
        await asyncio.to_thread(own_nats_server.restart)
        await asyncio.gather(one.wait_up(10), two.wait_up(10))
        assert await stream_config(one, WORK_STREAM) is None
        await asyncio.gather(*(ensure_work(c) for c in (one, two)))
        assert await stream_config(one, WORK_STREAM) is not None


async def test_nats_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentos.infra.jetstream.connection.CONNECT_TIMEOUT", 0.3)
    with pytest.raises(DependencyUnavailableError, match="cannot be reached"):
        await provision("nats://127.0.0.1:1", durability="power", expect_log=True)
