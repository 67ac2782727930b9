"""Answers of model calls by their request id, kept for a while: one message a request.

No part of the log: what is lost here is asked for again. Messages end by their own time to live,
and each write names the revision that it replaces, so that of two writers one loses.
"""

import asyncio
from typing import Any, Final

import orjson

from agentos.domain.errors import DependencyUnavailableError
from agentos.domain.subjects import ALL_ANSWERS, ANSWERS_STREAM, model_answer
from agentos.infra.jetstream import api
from agentos.infra.jetstream.connection import Connection
from agentos.infra.jetstream.reads import from_leader
from agentos.infra.jetstream.streams import stream_config
from agentos.infra.jetstream.wire import parse_headers

TRY_TIMEOUT: Final = 2.0


def answers_config(replicas: int = 1) -> dict[str, Any]:
    """Return the stream that keeps them."""
    return {
        "name": ANSWERS_STREAM,
        "subjects": [ALL_ANSWERS],
        "storage": "file",
        "retention": "limits",
        "discard": "old",
        "max_msgs_per_subject": 1,
        "allow_msg_ttl": True,
        "allow_direct": True,
        "num_replicas": replicas,
        "duplicate_window": 100_000_000,
    }


class JetStreamAnswers:
    """The stream is made at the first use; the connection is shared and not closed here."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._is_there = False

    async def read(self, tenant_id: str, digest: str) -> tuple[int, bytes] | None:
        """Return revision and body of what is kept, `None` if nothing is.

        Raises `DependencyUnavailableError`.
        """
        await self._ensure()
        subject = model_answer(tenant_id, digest)

        async def ask() -> tuple[int, bytes] | None:
            reply = await self._connection.ask(
                f"$JS.API.DIRECT.GET.{ANSWERS_STREAM}.{subject}", b"", timeout=api.API_TIMEOUT
            )
            if reply.status == b"404":
                return None
            return int(parse_headers(reply.headers)["Nats-Sequence"]), reply.data

        return await api.repeated(self._connection, ask)

    async def write(
        self, tenant_id: str, digest: str, body: bytes, *, expected: int, ttl_s: int
    ) -> int | None:
        """Keep `body` for `ttl_s` seconds in place of revision `expected` (0: of nothing).

        Returns its revision once it is durable, `None` when another writer was first. Bodies
        differ from one another, so that what came of an unclear answer can be seen. Raises
        `DependencyUnavailableError`.
        """
        await self._ensure()
        subject = model_answer(tenant_id, digest)
        headers = (
            f"NATS/1.0\r\nNats-Expected-Last-Subject-Sequence: {expected}\r\n"
            f"Nats-TTL: {max(1, ttl_s)}s\r\n\r\n"
        ).encode()
        deadline = asyncio.get_running_loop().time() + api.TOTAL_TIMEOUT
        while True:
            try:
                reply = await self._connection.ask(
                    subject, body, headers=headers, timeout=TRY_TIMEOUT
                )
                answer = orjson.loads(reply.data)
                if (error := answer.get("error")) is None:
                    return int(answer["seq"])
                if int(error.get("err_code", 0)) in api.WRONG_LAST_SEQUENCE:
                    return await self._is_ours(subject, body)
                raise api.ApiError(error)
            except api.UNREACHED as exc:
                self._is_there = False
                await api.pause(self._connection, deadline, exc)
                await self._ensure()
            except api.ApiError as exc:
                if exc.code not in api.TRANSIENT:
                    raise _refused(exc) from exc
                await api.pause(self._connection, deadline, exc)

    async def _is_ours(self, subject: str, body: bytes) -> int | None:
        """Return the revision if the last message is the one just sent: its answer was lost."""
        found = await from_leader(self._connection, ANSWERS_STREAM, {"last_by_subj": subject})
        if found is None:
            return None
        reply = await self._connection.ask(
            f"$JS.API.DIRECT.GET.{ANSWERS_STREAM}",
            orjson.dumps({"seq": int(found["seq"])}),
            timeout=api.API_TIMEOUT,
        )
        return int(found["seq"]) if reply.data == body else None

    async def _ensure(self) -> None:
        if self._is_there:
            return
        if await stream_config(self._connection, ANSWERS_STREAM) is None:
            await api.repeated(
                self._connection,
                lambda: api.call(
                    self._connection, f"STREAM.CREATE.{ANSWERS_STREAM}", answers_config()
                ),
            )
        self._is_there = True


def _refused(error: api.ApiError) -> DependencyUnavailableError:
    return api.unavailable(f"the answer cannot be kept: {error}")
