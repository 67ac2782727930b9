"""The log from a position on: past to present, then live, without gap or repeat.

An ephemeral pull consumer that acknowledges nothing. Each message's consumer sequence must
be the last + 1; where it is not, where the consumer is gone or silent, another one is made
behind the last position that was handed out.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from agentos.domain.log import Recorded, TailBatch
from agentos.infra.jetstream import api
from agentos.infra.jetstream.connection import Connection, DisconnectedError
from agentos.infra.jetstream.pull import HEARTBEAT, NS, Delivered, Pull, place
from agentos.infra.jetstream.wire import decode, parse_headers

BATCH: Final = 512
INACTIVE: Final = 15.0
GONE_AFTER: Final = 2.0
CREATE_TIMEOUT: Final = 15.0


@dataclass(frozen=True, slots=True)
class Selection:
    """What of a stream is read; without filters all of it, which the server does fastest."""

    stream: str
    filters: tuple[str, ...]
    headers_only: bool = False


class Reader:
    """Reads a selection in order; `position` is the last that was handed out."""

    def __init__(
        self, connection: Connection, selection: Selection, after: int, *, last_only: bool = False
    ) -> None:
        self._connection = connection
        self._selection = selection
        self._last_only = last_only
        self._consumer = ""
        self._pull: Pull | None = None
        self._consumed = 0
        self.position = after
        self.caught_up = False

    async def open(self) -> None:
        """Make a consumer behind `position`, waiting out a broker that restarts.

        Raises `DependencyUnavailableError` when the stream is gone.
        """
        loop = asyncio.get_running_loop()
        missing_since = None
        while True:
            try:
                await self._create()
                return
            except api.UNREACHED:
                await self._pause()
            except api.ApiError as exc:
                if exc.code != api.STREAM_NOT_FOUND:
                    await self._pause()
                    continue
                missing_since = missing_since or loop.time()
                if loop.time() - missing_since > GONE_AFTER:
                    raise api.unavailable(vanished(self._selection.stream)) from exc
                await self._pause()

    async def _pause(self) -> None:
        """Wait for the next try: as long as it takes, a reader outlives its broker."""
        while True:
            try:
                await self._connection.wait_up(60.0)
                break
            except DisconnectedError as exc:
                if self._connection.is_closed:
                    raise api.unavailable(str(exc)) from exc
        await asyncio.sleep(api.PAUSE)

    async def _create(self) -> None:
        self.close()
        name = self._connection.new_inbox().rpartition(".")[2]
        filters = self._selection.filters
        config: dict[str, Any] = {
            "name": name,
            "ack_policy": "none",
            "replay_policy": "instant",
            **self._start(),
            **({"filter_subjects": list(filters)} if filters else {}),
            "headers_only": self._selection.headers_only,
            "inactive_threshold": int(INACTIVE * NS),
            "mem_storage": True,
            "num_replicas": 1,
        }
        stream = self._selection.stream
        pull = Pull(self._connection, stream, name)
        await pull.open()
        self._pull = pull
        answer = await api.call(
            self._connection,
            f"CONSUMER.CREATE.{stream}.{name}",
            {"stream_name": stream, "config": config, "action": "create"},
            timeout=CREATE_TIMEOUT,  # several filters over millions of subjects take a second
        )
        self._consumer = name
        self._consumed = 0
        self.caught_up = answer["num_pending"] == 0

    def _start(self) -> dict[str, Any]:
        if self._last_only:
            self.position = 0  # made anew it begins anew: an older last may still be due
            return {"deliver_policy": "last_per_subject"}
        return {"deliver_policy": "by_start_sequence", "opt_start_seq": self.position + 1}

    async def next(self) -> list[Recorded]:
        """Return what comes next, at least one record unless it just turned out caught up."""
        while True:
            pull = self._pull
            if pull is None or pull.broken:
                was_caught_up = self.caught_up
                await self.open()
                self.caught_up = was_caught_up and self.caught_up
                continue
            if pull.outstanding <= BATCH // 2:
                pull.want(BATCH)
            await pull.wait(HEARTBEAT)
            if records := self._records(pull, pull.take()):
                return records
            if pull.silent():
                pull.broken = True
            elif pull.idle and not self.caught_up:
                # Nothing more came in a heartbeat's time: a purge took what was announced.
                self.caught_up = True
                return []

    def _records(self, pull: Pull, messages: Sequence[Delivered]) -> list[Recorded]:
        records = []
        for message in messages:
            position, consumed, pending = place(message.reply)
            if consumed != self._consumed + 1:
                pull.broken = True
                break
            self._consumed = consumed
            pull.idle = False
            if position <= self.position:
                continue
            fields = parse_headers(message.headers)
            records.append(decode(message.subject.decode(), position, fields, message.data))
            self.position = position
            self.caught_up = pending == 0
        return records

    def close(self) -> None:
        """Let go of the consumer; the broker forgets it at once, or soon if it is unreachable."""
        if self._pull is not None:
            self._pull.close()
            self._pull = None
        if self._consumer and self._connection.is_connected:
            self._connection.post(
                f"$JS.API.CONSUMER.DELETE.{self._selection.stream}.{self._consumer}", b""
            )
        self._consumer = ""


async def tail(
    connection: Connection, selection: Selection, after: int
) -> AsyncIterator[TailBatch]:
    """Read a selection behind `after` as `EventLog.tail` says."""
    reader = Reader(connection, selection, after)
    try:
        await reader.open()
        if reader.caught_up:
            yield TailBatch((), True)
        while True:
            records = await reader.next()
            yield TailBatch(records, reader.caught_up)
    finally:
        reader.close()


def vanished(stream: str) -> str:
    """Return what to say when the log's stream is not there."""
    return (
        f"the log's stream {stream} is not in NATS any more: nothing is made anew. "
        "Check that the node uses the right NATS and data directory, or restore a backup"
    )
