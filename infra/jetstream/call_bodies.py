"""The sealed bodies of direct model calls, kept for a while: one message a call.

No part of the log: the stream lets go of each by its age.
"""

from typing import Any, Final

import orjson

from agentos.domain.subjects import ALL_CALL_BODIES, CALL_BODIES_STREAM, call_body, stream_name
from agentos.infra.jetstream import api
from agentos.infra.jetstream.connection import Connection
from agentos.infra.jetstream.pull import NS
from agentos.infra.jetstream.streams import stream_config

KEPT_DAYS: Final = 30
TRY_TIMEOUT: Final = 2.0


def bodies_config(replicas: int = 1) -> dict[str, Any]:
    """Return the stream that keeps them."""
    return {
        "name": CALL_BODIES_STREAM,
        "subjects": [ALL_CALL_BODIES],
        "storage": "file",
        "retention": "limits",
        "discard": "old",
        "max_age": KEPT_DAYS * 86_400 * NS,
        "max_msgs_per_subject": 1,
        "allow_direct": True,
        "num_replicas": replicas,
        "duplicate_window": 100_000_000,
    }


class JetStreamCallBodies:
    """The stream is made at the first write; the connection is shared and not closed here."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._is_there = False

    async def put(self, tenant_id: str, digest: str, body: bytes) -> None:
        """Keep a call's body; of two with one id the last. Raises `DependencyUnavailableError`."""
        await self._ensure()

        async def send() -> None:
            reply = await self._connection.ask(
                call_body(tenant_id, digest), body, timeout=TRY_TIMEOUT
            )
            if error := orjson.loads(reply.data).get("error"):
                raise api.ApiError(error)

        await api.repeated(self._connection, send)

    async def read(self, tenant_id: str, digest: str) -> bytes | None:
        """Return a call's body, `None` where none is kept. Raises `DependencyUnavailableError`."""
        subject = f"$JS.API.DIRECT.GET.{CALL_BODIES_STREAM}.{call_body(tenant_id, digest)}"

        async def ask() -> bytes | None:
            reply = await self._connection.ask(subject, b"", timeout=api.API_TIMEOUT)
            return None if reply.status else reply.data

        return await api.repeated(self._connection, ask)

    async def are_kept(self) -> bool:
        """Return whether there is anything to read at all."""
        return await stream_config(self._connection, CALL_BODIES_STREAM) is not None

    async def _ensure(self) -> None:
        if self._is_there:
            return
        if not await self.are_kept():
            log = await stream_config(self._connection, stream_name(0))
            wanted = bodies_config(int(log["num_replicas"]) if log else 1)
            await api.repeated(
                self._connection,
                lambda: api.call(self._connection, f"STREAM.CREATE.{CALL_BODIES_STREAM}", wanted),
            )
        self._is_there = True
