"""The contract of the command bus, kept by every adapter."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import orjson
import pytest
from nats.aio.msg import Msg

from agentos.domain import subjects
from agentos.domain.auth import AuthContext, system_auth
from agentos.domain.errors import (
    AgentOSError,
    DependencyUnavailableError,
    NotFoundError,
    QuotaExceededError,
    TimedOutError,
)
from agentos.domain.ports import CommandBus
from agentos.infra.jetstream import api
from agentos.infra.jetstream.bus import NatsCommandBus
from agentos.infra.jetstream.connection import Connection
from agentos.infra.memory.bus import MemoryBus
from tests.contracts.logs import connected
from tests.infra.embedded import EmbeddedNats

Handler = Callable[[AuthContext, Mapping[str, Any]], Awaitable[dict[str, Any]]]
AUTH = system_auth("tnt_a")


async def echo(auth: AuthContext, command: Mapping[str, Any]) -> dict[str, Any]:
    return {"auth": auth, "command": dict(command)}


async def refuse(_auth: AuthContext, _command: Mapping[str, Any]) -> dict[str, Any]:
    raise QuotaExceededError("too many", limit=10, used=10, retryable=False)


async def hide(_auth: AuthContext, _command: Mapping[str, Any]) -> dict[str, Any]:
    raise NotFoundError("no such run")


async def hang(_auth: AuthContext, _command: Mapping[str, Any]) -> dict[str, Any]:
    await asyncio.sleep(30)
    return {}


HANDLERS: dict[str, Handler] = {
    "test.echo": echo, "test.refuse": refuse, "test.hide": hide, "test.hang": hang
}  # fmt: skip


async def serve(connection: Connection, name: str, handler: Handler) -> None:
    """Answer a command over NATS as the handlers do."""

    async def answer(message: Msg) -> None:
        request = orjson.loads(message.data)
        try:
            ok = await handler(AuthContext.model_validate(request["auth"]), request["command"])
            reply: dict[str, Any] = {"ok": ok}
        except AgentOSError as exc:
            reply = {"error": exc.to_wire()}
        await message.respond(orjson.dumps(reply, default=lambda a: a.model_dump(mode="json")))

    await connection.subscribe(subjects.command(name), cb=answer)


@pytest.fixture(params=["memory", "nats"])
async def bus(request: pytest.FixtureRequest) -> AsyncIterator[CommandBus]:
    if request.param == "memory":
        yield MemoryBus(dict(HANDLERS))
        return
    server: EmbeddedNats = request.getfixturevalue("nats_server")
    async with connected(server.url) as client, connected(server.url) as handlers:
        for name, handler in HANDLERS.items():
            await serve(handlers, name, handler)
        # nats-py's flush sends its PING past subscriptions that still wait to be sent; a request
        # goes behind them.
        await api.call(handlers, "INFO")
        yield NatsCommandBus(client)


async def test_a_handler_gets_who_asks_and_what(bus: CommandBus) -> None:
    command = {"text": 'ä "quoted" \n', "nested": {"list": [1, 2.5, None, True]}}
    answer = await bus.send("test.echo", AUTH, command)
    assert answer["command"] == command
    assert AuthContext.model_validate(answer["auth"]) == AUTH


async def test_many_commands_at_once_get_their_own_answers(bus: CommandBus) -> None:
    answers = await asyncio.gather(*(bus.send("test.echo", AUTH, {"n": n}) for n in range(300)))
    assert [answer["command"]["n"] for answer in answers] == list(range(300))


async def test_a_handlers_error_comes_back_as_itself(bus: CommandBus) -> None:
    with pytest.raises(QuotaExceededError) as caught:
        await bus.send("test.refuse", AUTH, {})
    assert caught.value.to_wire() == {
        "code": "quota_exceeded",
        "message": "too many",
        "retryable": False,
        "details": {"limit": 10, "used": 10},
    }
    with pytest.raises(NotFoundError, match="no such run"):
        await bus.send("test.hide", AUTH, {})


async def test_nobody_listening_is_known_at_once(bus: CommandBus) -> None:
    with pytest.raises(DependencyUnavailableError) as caught:
        await bus.send("test.nobody", AUTH, {}, timeout=5)
    assert caught.value.details["dependency"] == "handlers"


async def test_an_answer_that_does_not_come_times_out(bus: CommandBus) -> None:
    with pytest.raises(TimedOutError):
        await bus.send("test.hang", AUTH, {}, timeout=0.1)
