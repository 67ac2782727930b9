"""Commands to the handlers by NATS request and reply."""

import asyncio
from collections.abc import Mapping
from typing import Any, Final

import orjson

from agentos.domain.auth import AuthContext
from agentos.domain.errors import (
    AgentOSError,
    DependencyUnavailableError,
    PayloadTooLargeError,
    TimedOutError,
    error_from_wire,
)
from agentos.domain.subjects import command as command_subject
from agentos.infra.jetstream import api
from agentos.infra.jetstream.connection import Connection, DisconnectedError, NoRespondersError

TOGETHER: Final = frozenset({"run.create"})
COMPANY_BYTES: Final = 512 * 1024


class NatsCommandBus:
    """Sends `{"auth", "command"}`; a handler answers `{"ok": …}` or `{"error": {code, …}}`.

    Commands of a kind that many send at once (`TOGETHER`) travel in one message when they were
    sent within one turn of the loop: a list there, a list of answers back.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._gathering: dict[str, _Company] = {}
        self._sending: set[asyncio.Task[None]] = set()

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
        if name not in TOGETHER:
            return answered(orjson.loads(await self._ask(name, data, timeout)))
        company = self._gathering.get(name)
        if company is None or company.size + len(data) > COMPANY_BYTES:
            company = self._gathering[name] = _Company(timeout)
            asyncio.get_running_loop().call_soon(self._leave, name, company)
        return answered(await company.join(data))

    def _leave(self, name: str, company: "_Company") -> None:
        """Send off what gathered in this turn of the loop."""
        if self._gathering.get(name) is company:
            del self._gathering[name]
        task = asyncio.create_task(self._travel(name, company))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _travel(self, name: str, company: "_Company") -> None:
        try:
            answer = orjson.loads(await self._ask(name, company.body(), company.timeout))
        except AgentOSError as error:
            company.fail(error)
        else:
            company.arrive(answer if isinstance(answer, list) else [answer])

    async def _ask(self, name: str, data: bytes, timeout: float) -> bytes:
        try:
            return (await self._connection.ask(command_subject(name), data, timeout=timeout)).data
        except NoRespondersError as exc:
            raise DependencyUnavailableError(
                "no handler listens", dependency="handlers", command=name
            ) from exc
        except TimeoutError as exc:
            raise TimedOutError(f"{name} was not answered in {timeout} s", command=name) from exc
        except DisconnectedError as exc:
            raise api.unavailable(str(exc)) from exc


class _Company:
    """Commands that travel together."""

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self.size = 0
        self._data: list[bytes] = []
        self._waiting: list[asyncio.Future[dict[str, Any]]] = []

    def join(self, data: bytes) -> asyncio.Future[dict[str, Any]]:
        """Return what will hold the answer."""
        self.size += len(data) + 1
        self._data.append(data)
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting.append(answer)
        return answer

    def body(self) -> bytes:
        """Return one command as it is, several as a list."""
        return self._data[0] if len(self._data) == 1 else b"[" + b",".join(self._data) + b"]"

    def arrive(self, answers: list[dict[str, Any]]) -> None:
        """Hand each its answer."""
        for waiting, answer in zip(self._waiting, answers, strict=True):
            if not waiting.done():
                waiting.set_result(answer)

    def fail(self, error: AgentOSError) -> None:
        """Tell everybody why there is no answer."""
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_exception(error)


def encode_request(auth: AuthContext, command: Mapping[str, Any]) -> bytes:
    """Return the body of a command's request."""
    auth_json = auth.model_dump_json().encode()
    return b"".join((b'{"auth":', auth_json, b',"command":', orjson.dumps(command), b"}"))


def answered(answer: dict[str, Any]) -> dict[str, Any]:
    """Return what a handler answered, or raise the error that it answered."""
    if "error" in answer:
        raise error_from_wire(answer["error"])
    ok: dict[str, Any] = answer["ok"]
    return ok
