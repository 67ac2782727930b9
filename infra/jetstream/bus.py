"""Commands to the handlers by NATS request and reply."""

from collections.abc import Mapping
from typing import Any

import orjson

from agentos.domain.auth import AuthContext
from agentos.domain.errors import (
    DependencyUnavailableError,
    PayloadTooLargeError,
    TimedOutError,
    error_from_wire,
)
from agentos.domain.subjects import command as command_subject
from agentos.infra.jetstream import api
from agentos.infra.jetstream.connection import Connection, DisconnectedError, NoRespondersError


class NatsCommandBus:
    """Sends `{"auth", "command"}`; a handler answers `{"ok": …}` or `{"error": {code, …}}`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def send(
        self, name: str, auth: AuthContext, command: Mapping[str, Any], *, timeout: float = 10.0
    ) -> dict[str, Any]:
        """Send a command and return the handler's answer; as `CommandBus.send`.

        Raises `DependencyUnavailableError` with `dependency="nats"` when the connection is
        down or breaks: the command may have been carried out then.
        """
        data = encode_request(auth, command)
        limit = self._connection.max_payload_bytes
        if len(data) > limit:
            raise PayloadTooLargeError("the command is larger than a message may be", limit=limit)
        try:
            reply = await self._connection.ask(command_subject(name), data, timeout=timeout)
        except NoRespondersError as exc:
            raise DependencyUnavailableError(
                "no handler listens", dependency="handlers", command=name
            ) from exc
        except TimeoutError as exc:
            raise TimedOutError(f"{name} was not answered in {timeout} s", command=name) from exc
        except DisconnectedError as exc:
            raise api.unavailable(str(exc)) from exc
        return decode_answer(reply.data)


def encode_request(auth: AuthContext, command: Mapping[str, Any]) -> bytes:
    """Return the body of a command's request."""
    auth_json = auth.model_dump_json().encode()
    return b"".join((b'{"auth":', auth_json, b',"command":', orjson.dumps(command), b"}"))


def decode_answer(data: bytes) -> dict[str, Any]:
    """Return what a handler answered, or raise the error that it answered."""
    answer = orjson.loads(data)
    if "error" in answer:
        raise error_from_wire(answer["error"])
    ok: dict[str, Any] = answer["ok"]
    return ok
