"""Positions of followers of the log, in a JetStream key-value bucket.

Asked for over our own connection: the driver's key-value client waits in a way that may swallow
a cancellation, and whoever keeps a position is cancelled while it does.
"""

from base64 import b64decode
from typing import Any, Final

import orjson

from agentos.infra.jetstream import api
from agentos.infra.jetstream.connection import Connection, NoRespondersError

BUCKET: Final = "places"


class JetStreamPlaces:
    """A position by a name without dots. The bucket is made at the first use."""

    def __init__(self, connection: Connection, *, bucket: str = BUCKET, replicas: int = 1) -> None:
        self._connection = connection
        self._bucket = bucket
        self._replicas = replicas

    async def get(self, name: str) -> int | None:
        """Return the position that was kept last, `None` if none ever was.

        Raises `DependencyUnavailableError`.
        """
        wanted = {"last_by_subj": self._subject(name)}
        try:
            answer = await api.call(self._connection, f"STREAM.MSG.GET.{self._stream}", wanted)
        except api.UNREACHED as exc:
            raise api.unavailable(api.describe(exc)) from exc
        except api.ApiError as exc:
            if exc.code in (api.NO_MESSAGE, api.STREAM_NOT_FOUND):
                return None
            raise api.unavailable(str(exc)) from exc
        return int(b64decode(answer["message"]["data"]))

    async def keep(self, name: str, position: int) -> None:
        """Keep a position. Raises `DependencyUnavailableError`."""
        try:
            try:
                await self._put(name, position)
            except NoRespondersError:  # nobody takes it: there is no bucket yet
                await self._make()
                await self._put(name, position)
        except api.UNREACHED as exc:
            raise api.unavailable(api.describe(exc)) from exc
        except api.ApiError as exc:
            raise api.unavailable(str(exc)) from exc

    async def _put(self, name: str, position: int) -> None:
        data = str(position).encode()
        reply = await self._connection.ask(self._subject(name), data, timeout=api.API_TIMEOUT)
        answer: dict[str, Any] = orjson.loads(reply.data)
        if error := answer.get("error"):
            raise api.ApiError(error)

    async def _make(self) -> None:
        config = {
            "name": self._stream,
            "subjects": [f"$KV.{self._bucket}.>"],
            "max_msgs_per_subject": 1,
            "discard": "new",
            "storage": "file",
            "num_replicas": self._replicas,
            "allow_rollup_hdrs": True,
            "allow_direct": True,
            "deny_delete": True,
        }
        await api.call(self._connection, f"STREAM.CREATE.{self._stream}", config)

    @property
    def _stream(self) -> str:
        return f"KV_{self._bucket}"

    def _subject(self, name: str) -> str:
        return f"$KV.{self._bucket}.{name}"
