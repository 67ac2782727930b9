"""The event log on JetStream: one stream a partition, one subject an aggregate."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar

import orjson

from agentos.domain.errors import AppendConflictError, PayloadTooLargeError
from agentos.domain.log import Commit, Recorded, TailBatch
from agentos.domain.subjects import StreamRef, log_filter, log_subject, stream_name
from agentos.infra.jetstream import api, reads
from agentos.infra.jetstream.connection import Connection
from agentos.infra.jetstream.tail import Reader, Selection, tail
from agentos.infra.jetstream.wire import encode_headers, message_id

T = TypeVar("T")
TRY_TIMEOUT: Final = 2.0


class JetStreamLog:
    """One partition of the log. Its connection is shared and not closed by it."""

    def __init__(self, connection: Connection, partition: int = 0) -> None:
        self._connection = connection
        self._partition = partition
        self._stream = stream_name(partition)
        self._replicated: bool | None = None

    # Writing

    async def append(self, commit: Commit, *, expected: int) -> int:
        """Write `commit` if the aggregate's last position is `expected`.

        As `EventLog.append`; `PayloadTooLargeError` over the broker's message size,
        `ValueError` for ids that do not fit into a subject.
        """
        subject = log_subject(self._partition, commit.ref)
        headers = encode_headers(commit, expected)
        limit = self._connection.max_payload_bytes
        if len(headers) + len(commit.body) > limit:
            raise PayloadTooLargeError("the commit is larger than a message may be", limit=limit)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + api.TOTAL_TIMEOUT
        while True:
            left = max(deadline - loop.time(), api.PAUSE)
            try:
                reply = await self._connection.ask(
                    subject, commit.body, headers=headers, timeout=min(TRY_TIMEOUT, left)
                )
                answer = orjson.loads(reply.data)
                if "error" not in answer and "duplicate" not in answer:
                    return int(answer["seq"])
                return await self._settle(answer, commit, subject, expected)
            except api.UNREACHED as exc:
                await api.pause(self._connection, deadline, exc)
            except api.ApiError as exc:
                if exc.code not in api.TRANSIENT:
                    raise self._refused(exc) from exc
                await api.pause(self._connection, deadline, exc)

    async def _settle(
        self, answer: dict[str, Any], commit: Commit, subject: str, expected: int
    ) -> int:
        """Return the commit's position if the first message behind `expected` is it."""
        error = answer.get("error")
        if error and int(error.get("err_code", 0)) not in api.WRONG_LAST_SEQUENCE:
            raise api.ApiError(error)
        first = await reads.first_behind(self._connection, self._stream, subject, expected)
        if first is not None and first[1] == message_id(commit):
            return first[0]
        raise AppendConflictError(f"{subject} is not at {expected} any more")

    def _refused(self, error: api.ApiError) -> Exception:
        if error.code in api.TOO_LARGE:
            return PayloadTooLargeError("the commit is larger than the log takes")
        return api.unavailable(
            f"the log refused an append: {error}. Check the disk's free space and the NATS "
            "server's limits (`agentos doctor`)"
        )

    async def purge(self, ref: StreamRef, *, through: int) -> None:
        """Remove the aggregate's commits at or before position `through`; as `EventLog.purge`."""
        request = {"filter": log_subject(self._partition, ref), "seq": through + 1}
        await self._repeated(
            lambda: api.call(self._connection, f"STREAM.PURGE.{self._stream}", request)
        )

    # Reading

    async def last(self, ref: StreamRef) -> Recorded | None:
        """Return the aggregate's last commit, or `None` if it has none."""
        subject = log_subject(self._partition, ref)
        if await self._leader_only():
            return await self._repeated(
                lambda: reads.last_from_leader(self._connection, self._stream, subject)
            )
        return await self._repeated(
            lambda: reads.last_direct(self._connection, self._stream, subject)
        )

    async def last_many(self, refs: Sequence[StreamRef]) -> dict[StreamRef, Recorded]:
        """Return the last commits of those aggregates that have one."""
        subjects = list({log_subject(self._partition, ref): None for ref in refs})
        if await self._leader_only():
            found = await self._last_one_by_one(subjects)
        else:
            found = []
            for start in range(0, len(subjects), reads.MULTI):
                found += await self._last_chunk(subjects[start : start + reads.MULTI])
        return {record.ref: record for record in found}

    async def _last_chunk(self, subjects: Sequence[str]) -> list[Recorded]:
        return await self._repeated(
            lambda: reads.last_multi(self._connection, self._stream, subjects)
        )

    async def _last_one_by_one(self, subjects: Sequence[str]) -> list[Recorded]:
        found = []
        for subject in subjects:
            record = await self._repeated(
                lambda subject=subject: reads.last_from_leader(  # type: ignore[misc]
                    self._connection, self._stream, subject
                )
            )
            if record is not None:
                found.append(record)
        return found

    async def last_of_kind(self, kind: str, tenant_id: str | None = None) -> list[Recorded]:
        """Return the last commit of every aggregate of a kind, of one tenant or of all."""
        filters = (log_filter(self._partition, tenant_id, kind),)
        reader = Reader(self._connection, Selection(self._stream, filters), 0, last_only=True)
        found: dict[StreamRef, Recorded] = {}
        try:
            await reader.open()
            while not reader.caught_up:
                found |= {record.ref: record for record in await reader.next()}
        finally:
            reader.close()
        return sorted(found.values(), key=lambda record: record.position)

    async def read(self, ref: StreamRef, *, after: int = 0) -> list[Recorded]:
        """Return the aggregate's commits behind position `after`, oldest first."""
        subject = log_subject(self._partition, ref)
        records = await self._repeated(
            lambda: reads.read_direct(self._connection, self._stream, subject, after)
        )
        if await self._leader_only():
            behind = records[-1].position if records else after
            records += await self._repeated(
                lambda: reads.read_from_leader(self._connection, self._stream, subject, behind)
            )
        return records

    def tail(
        self,
        *,
        after: int,
        kinds: Sequence[str] = (),
        tenant_id: str | None = None,
        headers_only: bool = False,
    ) -> AsyncIterator[TailBatch]:
        """Read everything behind position `after`, then go on live; as `EventLog.tail`."""
        filters: tuple[str, ...] = ()
        if kinds or tenant_id is not None:
            chosen: Sequence[str | None] = tuple(dict.fromkeys(kinds)) or (None,)
            filters = tuple(log_filter(self._partition, tenant_id, kind) for kind in chosen)
        return tail(self._connection, Selection(self._stream, filters, headers_only), after)

    async def head(self) -> int:
        """Return the position of the partition's last commit, 0 when it is empty."""
        info = await self._info()
        return int(info["state"]["last_seq"])

    async def start(self) -> int:
        """Return the position behind which the partition's commits begin."""
        info = await self._info()
        return max(0, int(info["config"].get("first_seq", 0)) - 1)

    async def _info(self) -> dict[str, Any]:
        return await self._repeated(
            lambda: api.call(self._connection, f"STREAM.INFO.{self._stream}")
        )

    async def _leader_only(self) -> bool:
        """Whether a direct get could be answered by a replica that is behind."""
        if self._replicated is None:
            info = await self._info()
            self._replicated = info["config"]["num_replicas"] > 1
        return self._replicated

    async def _repeated(self, what: Callable[[], Awaitable[T]]) -> T:
        return await api.repeated(self._connection, what)
