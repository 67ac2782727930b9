"""Data subjects' wrapped keys in a stream of their own: one message a key, or its tombstone.

The stream keeps every message until it is erased here, so that no key is dropped without being
overwritten. A key is destroyed by a tombstone behind it (from then on it is gone for all, and
none can be made in its place), and then by the server's secure deletion of the message, which
writes noise over it. A crash in between is mended by destroying it again.
"""

import asyncio
from base64 import b64decode
from typing import Any, Final

import orjson

from agentos.domain.errors import DependencyUnavailableError
from agentos.domain.subjects import (
    ALL_CONTENT_KEYS,
    CONTENT_KEYS_STREAM,
    content_key,
    stream_name,
)
from agentos.infra.jetstream import api
from agentos.infra.jetstream.connection import Connection
from agentos.infra.jetstream.reads import from_leader
from agentos.infra.jetstream.streams import stream_config

TRY_TIMEOUT: Final = 2.0
NOT_DELETED: Final = 10057
"""The message was deleted before."""


def keys_config(replicas: int = 1) -> dict[str, Any]:
    """Return the stream that keeps them."""
    return {
        "name": CONTENT_KEYS_STREAM,
        "subjects": [ALL_CONTENT_KEYS],
        "storage": "file",
        "retention": "limits",
        "discard": "new",
        "max_msgs_per_subject": -1,
        "num_replicas": replicas,
        "duplicate_window": 100_000_000,
    }


class JetStreamContentKeys:
    """The stream is made at the first write; the connection is shared and not closed here."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._is_there = False

    async def read(self, tenant_id: str, key_id: str) -> bytes | None:
        """Return what is kept: `None` for nothing, `b""` for a key that was destroyed.

        The stream's leader is asked: a replica that is behind would show a key that is gone.
        """
        found = await self._last(content_key(tenant_id, key_id))
        return None if found is None else found[1]

    async def create(self, tenant_id: str, key_id: str, body: bytes) -> bool:
        """Keep a key; `False`, and nothing is changed, where there is or was one."""
        await self._ensure()
        return await self._write(content_key(tenant_id, key_id), body, 0)

    async def destroy(self, tenant_id: str, key_id: str) -> bool:
        """Overwrite what is kept and let no key be kept there again; whether there was one."""
        await self._ensure()
        subject = content_key(tenant_id, key_id)
        while (last := await self._last(subject)) is None or last[1]:
            if await self._write(subject, b"", last[0] if last else 0):
                break
        was_there = False
        while (sequence := await self._first_key(subject)) is not None:
            await self._erase(sequence)
            was_there = True
        return was_there

    async def entries(self) -> list[tuple[str, bytes]]:
        """Return every subject with what is kept there: a backup's content."""
        found: dict[str, bytes] = {}
        sequence = 1
        while (message := await self._next(ALL_CONTENT_KEYS, sequence)) is not None:
            found[message["subject"]] = b64decode(message.get("data", ""))
            sequence = int(message["seq"]) + 1
        return list(found.items())

    async def fill(self, subject: str, body: bytes) -> None:
        """Put a backup's entry into an empty place."""
        await self._ensure()
        await self._write(subject, body, 0)

    async def _last(self, subject: str) -> tuple[int, bytes] | None:
        found = await self._message({"last_by_subj": subject})
        return None if found is None else (int(found["seq"]), b64decode(found.get("data", "")))

    async def _first_key(self, subject: str) -> int | None:
        """Return where the first message is that is no tombstone."""
        sequence = 1
        while (found := await self._next(subject, sequence)) is not None:
            if found.get("data"):
                return int(found["seq"])
            sequence = int(found["seq"]) + 1
        return None

    async def _next(self, subject: str, sequence: int) -> dict[str, Any] | None:
        return await self._message({"next_by_subj": subject, "seq": sequence})

    async def _message(self, request: dict[str, Any]) -> dict[str, Any] | None:
        async def ask() -> dict[str, Any] | None:
            try:
                return await from_leader(self._connection, CONTENT_KEYS_STREAM, request)
            except api.ApiError as exc:
                if exc.code == api.STREAM_NOT_FOUND:
                    return None
                raise

        return await api.repeated(self._connection, ask)

    async def _write(self, subject: str, body: bytes, expected: int) -> bool:
        """Write behind `expected`; `False` when another was first. Repeated until it is known."""
        headers = f"NATS/1.0\r\nNats-Expected-Last-Subject-Sequence: {expected}\r\n\r\n".encode()
        deadline = asyncio.get_running_loop().time() + api.TOTAL_TIMEOUT
        while True:
            try:
                reply = await self._connection.ask(
                    subject, body, headers=headers, timeout=TRY_TIMEOUT
                )
                error = orjson.loads(reply.data).get("error")
                if error is None:
                    return True
                if int(error.get("err_code", 0)) in api.WRONG_LAST_SEQUENCE:
                    last = await self._last(subject)  # ours, if its answer was lost
                    return last is not None and last[0] > expected and last[1] == body
                raise api.ApiError(error)
            except api.UNREACHED as exc:
                await api.pause(self._connection, deadline, exc)
            except api.ApiError as exc:
                if exc.code not in api.TRANSIENT:
                    raise _refused(exc) from exc
                await api.pause(self._connection, deadline, exc)

    async def _erase(self, sequence: int) -> None:
        async def ask() -> None:
            try:
                await api.call(
                    self._connection,
                    f"STREAM.MSG.DELETE.{CONTENT_KEYS_STREAM}",
                    {"seq": sequence, "no_erase": False},
                )
            except api.ApiError as exc:
                if exc.code not in (api.NO_MESSAGE, NOT_DELETED):
                    raise

        await api.repeated(self._connection, ask)

    async def _ensure(self) -> None:
        if self._is_there:
            return
        if await stream_config(self._connection, CONTENT_KEYS_STREAM) is None:
            replicas = await self._replicas()
            await api.repeated(
                self._connection,
                lambda: api.call(
                    self._connection,
                    f"STREAM.CREATE.{CONTENT_KEYS_STREAM}",
                    keys_config(replicas),
                ),
            )
        self._is_there = True

    async def _replicas(self) -> int:
        """Return as many as the log has: content without its keys is lost."""
        log = await stream_config(self._connection, stream_name(0))
        return int(log["num_replicas"]) if log else 1


def _refused(error: api.ApiError) -> DependencyUnavailableError:
    return api.unavailable(f"a content key cannot be kept: {error}")
