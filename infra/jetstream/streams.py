"""The streams a node needs: made when they may be, checked when they are there."""

import logging
from typing import Any, Final, Literal

from agentos.domain.errors import DependencyUnavailableError
from agentos.domain.subjects import ALL_WORK, WORK_STREAM, partition_subjects, stream_name
from agentos.infra.jetstream import api
from agentos.infra.jetstream.connection import Connection, bounded_close, connect
from agentos.infra.jetstream.pull import NS
from agentos.infra.jetstream.tail import vanished

Durability = Literal["power", "process"]
DUPLICATE_WINDOW: Final = 2
EXECUTORS: Final = "executors"
ACK_WAIT: Final = 3
MAX_IN_HAND: Final = 100_000
MAX_WAITING: Final = 200_000
logger = logging.getLogger(__name__)


class LogVanishedError(DependencyUnavailableError):
    """The node has state, but its log is not in NATS: it refuses to begin a new one."""


class LogMismatchError(DependencyUnavailableError):
    """A stream of the log's name is there, but it is not a log of ours."""


def log_config(partition: int, replicas: int) -> dict[str, Any]:
    """Return the stream of one partition. Purging stays allowed: retention needs it."""
    return {
        "name": stream_name(partition),
        "subjects": [partition_subjects(partition)],
        "storage": "file",
        "retention": "limits",
        "discard": "new",
        "max_consumers": -1,
        "max_msgs": -1,
        "max_bytes": -1,
        "max_age": 0,
        "max_msg_size": -1,
        "max_msgs_per_subject": -1,
        "num_replicas": replicas,
        "duplicate_window": DUPLICATE_WINDOW * NS,
        "allow_direct": True,
        "deny_delete": True,
    }


def work_config() -> dict[str, Any]:
    """Return the work queue's stream: a cache, so it lives in the broker's memory."""
    return {
        "name": WORK_STREAM,
        "subjects": [ALL_WORK],
        "storage": "memory",
        "retention": "workqueue",
        "discard": "old",
        "max_msgs": MAX_WAITING,
        "max_msgs_per_subject": 1,
        "num_replicas": 1,
        "duplicate_window": NS // 10,
    }


def executors_config() -> dict[str, Any]:
    """Return the consumer that all executors pull from."""
    return {
        "durable_name": EXECUTORS,
        "ack_policy": "explicit",
        "ack_wait": ACK_WAIT * NS,
        "max_ack_pending": MAX_IN_HAND,
        "max_deliver": -1,
        "deliver_policy": "all",
        "replay_policy": "instant",
        "max_waiting": 4096,
    }


async def provision(
    nats_url: str, *, durability: Durability, expect_log: bool, replicas: int = 1, start: int = 0
) -> None:
    """Make or check the streams of a node.

    With `expect_log` (the node has state) a missing log is `LogVanishedError`; without, it is
    made. A log that does not fit is `LogMismatchError`. `durability` is what the node declares
    and is said in the log line: it is made true by the server's `sync_interval` or by replicas,
    which a client cannot see. A log that is made begins behind position `start`. Raises
    `DependencyUnavailableError` when NATS cannot be reached.
    """
    connection = await connect(nats_url, "agentos-provision")
    try:
        await ensure_log(connection, expect_log=expect_log, replicas=replicas, start=start)
        await ensure_work(connection)
        logger.info("the log is in place, durability %s (declared)", durability)
    finally:
        await bounded_close(connection)


async def ensure_log(
    connection: Connection,
    *,
    expect_log: bool,
    replicas: int = 1,
    partition: int = 0,
    start: int = 0,
) -> None:
    """Make the log's stream if it may be made, and check it."""
    stream = stream_name(partition)
    config = await stream_config(connection, stream)
    if config is None:
        if expect_log:
            raise LogVanishedError(vanished(stream), dependency="nats")
        wanted = log_config(partition, replicas) | ({"first_seq": start + 1} if start else {})
        answer = await api.repeated(
            connection, lambda: api.call(connection, f"STREAM.CREATE.{stream}", wanted)
        )
        config = answer["config"]
    check_log(config, log_config(partition, replicas))


def check_log(config: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raise `LogMismatchError` unless a stream keeps what a log must keep.

    The number of replicas may differ: it is the operator's to change.
    """
    must = ("subjects", "storage", "retention", "max_age", "max_msgs", "max_bytes",
            "max_msgs_per_subject", "discard", "allow_direct", "persist_mode")  # fmt: skip
    wrong = [
        f"{key} is {config.get(key)!r}, not {wanted.get(key)!r}"
        for key in must
        if config.get(key) != wanted.get(key)
    ]
    if wrong:
        raise LogMismatchError(
            f"the stream {wanted['name']} in NATS is not a log of AgentOS: {'; '.join(wrong)}. "
            "Use another NATS account or data directory, or correct the stream",
            dependency="nats",
        )


async def stream_config(connection: Connection, stream: str) -> dict[str, Any] | None:
    """Return a stream's configuration, `None` when there is no such stream."""

    async def info() -> dict[str, Any] | None:
        try:
            answer = await api.call(connection, f"STREAM.INFO.{stream}")
        except api.ApiError as exc:
            if exc.code == api.STREAM_NOT_FOUND:
                return None
            raise
        config: dict[str, Any] = answer["config"]
        return config

    return await api.repeated(connection, info)


async def ensure_work(connection: Connection) -> None:
    """Make the work queue's stream and consumer where they are missing.

    Repeatable, and called by several processes at once: a restart of the broker takes both.
    """
    consumer = {"stream_name": WORK_STREAM, "config": executors_config()}

    async def make() -> None:
        if await stream_config(connection, WORK_STREAM) is None:
            await api.call(connection, f"STREAM.CREATE.{WORK_STREAM}", work_config())
        await api.call(connection, f"CONSUMER.DURABLE.CREATE.{WORK_STREAM}.{EXECUTORS}", consumer)

    await api.repeated(connection, make)
