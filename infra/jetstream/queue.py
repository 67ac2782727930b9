"""The work queue on a memory stream: a cache of the log, shared by all executors."""

import asyncio
import logging
from typing import Any, Final

import orjson

from agentos.domain.errors import DependencyUnavailableError
from agentos.domain.log import Lease, Recorded
from agentos.domain.ports import WorkItem
from agentos.domain.subjects import WORK_STREAM, StreamRef, work
from agentos.infra.jetstream import api
from agentos.infra.jetstream.connection import Connection, DisconnectedError
from agentos.infra.jetstream.pull import HEARTBEAT, Delivered, Pull
from agentos.infra.jetstream.streams import EXECUTORS, ensure_work

ACK: Final = b"+ACK"
HAND_BACK: Final = b"-NAK"
ITEM_ROOM: Final = 4096
logger = logging.getLogger(__name__)


class JetStreamQueue:
    """One process's end of the work queue.

    An open pull request brings items as they are put, so `take` mostly finds them there. No
    more are asked for than the last `take` wanted; what is not taken, or not `done`, goes to
    another executor when the consumer's `ack_wait` is over.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._pull: Pull | None = None
        self._opening = asyncio.Lock()

    async def put(self, item: WorkItem) -> None:
        """Offer a run, without waiting for the broker; unreachable, the item is lost.

        An item of the same run that is still there is replaced.
        """
        subject = work(item.ref.tenant_id, item.ref.aggregate_id)
        body = encode_item(item)
        if len(body) + ITEM_ROOM > self._connection.max_payload_bytes:
            body = encode_item(WorkItem(item.ref, item.position))
        try:
            self._connection.post(subject, body)
        except DisconnectedError:
            logger.info("no connection to NATS: %s waits for the sweep", item.ref.aggregate_id)

    async def take(self, limit: int, timeout: float) -> list[WorkItem]:
        """Take up to `limit` items, waiting at most `timeout` seconds for the first.

        Makes stream and consumer anew when a restart of the broker took them. Raises
        `DependencyUnavailableError` when the broker cannot be used.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        while True:
            left = deadline - loop.time()
            pull = await self._opened(left)
            if pull is None:
                return []
            if pull.outstanding + pull.buffered < max(1, limit // 2):
                pull.want(limit - pull.outstanding - pull.buffered)
            await pull.wait(min(HEARTBEAT, left))
            if items := [decode_item(message) for message in pull.take(limit)]:
                return items
            if pull.silent():
                pull.broken = True
            if left <= 0:
                return []

    async def _opened(self, left: float) -> Pull | None:
        """Return the open pull; `None` when there is no connection in the time left."""
        async with self._opening:
            if self._pull is not None and (self._pull.buffered or not self._pull.broken):
                return self._pull
            self.close()
            try:
                await self._connection.wait_up(max(left, 0))
            except DisconnectedError:
                return None
            await ensure_work(self._connection)
            self._pull = Pull(self._connection, WORK_STREAM, EXECUTORS)
            await self._pull.open()
            return self._pull

    async def done(self, item: WorkItem) -> None:
        """Strike the item off, without waiting for the broker."""
        try:
            self._connection.post(item.token, ACK)
        except DisconnectedError:
            logger.info("no connection to NATS: %s comes once more", item.ref.aggregate_id)

    async def size(self) -> int:
        """Return how many items wait or are in hand; 0 while the stream is missing."""
        try:
            info = await api.repeated(self._connection, self._info)
        except DependencyUnavailableError as exc:
            cause = exc.__cause__
            if isinstance(cause, api.ApiError) and cause.code == api.STREAM_NOT_FOUND:
                return 0
            raise
        return info

    async def _info(self) -> int:
        answer = await api.call(self._connection, f"STREAM.INFO.{WORK_STREAM}")
        return int(answer["state"]["messages"])

    def close(self) -> None:
        """Stop pulling, and hand back at once what came and was not taken."""
        if self._pull is None:
            return
        self._pull.close()
        for message in self._pull.take():
            if self._connection.is_connected:
                self._connection.post(message.reply.decode(), HAND_BACK)
        self._pull = None


def encode_item(item: WorkItem) -> bytes:
    """Return an item as one line of JSON and the records' bodies behind it."""
    rows = [
        [
            record.position,
            record.commit_id,
            record.first_sequence,
            record.types,
            record.command_id,
            record.causation_id,
            [record.lease.worker_id, record.lease.deadline_ms] if record.lease else None,
            record.base,
            record.priority,
            len(record.body),
        ]
        for record in item.records
    ]
    head = orjson.dumps([item.ref.kind, item.position, rows])
    return b"".join((head, b"\n", *(record.body for record in item.records)))


def decode_item(message: Delivered) -> WorkItem:
    """Return the item of a delivered message; its token is the acknowledgement's subject."""
    _, tenant_id, run_id = message.subject.decode().split(".")
    head, _, bodies = message.data.partition(b"\n")
    kind, position, rows = orjson.loads(head)
    ref = StreamRef(tenant_id, kind, run_id)
    records = []
    at = 0
    for *row, size in rows:
        records.append(_record(ref, row, bodies[at : at + size]))
        at += size
    return WorkItem(ref, position, tuple(records), message.reply.decode())


def _record(ref: StreamRef, row: list[Any], body: bytes) -> Recorded:
    position, commit_id, first, types, command, causation, lease, base, priority = row
    return Recorded(
        ref,
        commit_id,
        first,
        tuple(types),
        body,
        command,
        causation,
        Lease(*lease) if lease else None,
        base,
        priority,
        position=position,
    )
