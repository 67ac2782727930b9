"""Requests to JetStream's JSON API, and what its errors mean to us."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import orjson

from agentos.domain.errors import DependencyUnavailableError
from agentos.infra.jetstream.connection import Connection, DisconnectedError, NoRespondersError

T = TypeVar("T")

STREAM_NOT_FOUND: Final = 10059
NO_MESSAGE: Final = 10037
CONSUMER_NOT_FOUND: Final = 10014
TOO_LARGE: Final = frozenset({10054})
WRONG_LAST_SEQUENCE: Final = frozenset({10071, 10164})
TRANSIENT: Final = frozenset({10008, 10009, 10158})

API_TIMEOUT: Final = 2.0
TOTAL_TIMEOUT: Final = 5.0
PAUSE: Final = 0.1
UNREACHED: Final = (TimeoutError, DisconnectedError, NoRespondersError)


class ApiError(Exception):
    """JetStream said no; `code` is its `err_code`."""

    def __init__(self, error: dict[str, Any]) -> None:
        self.code = int(error.get("err_code", 0))
        self.description = str(error.get("description", "unknown error"))
        super().__init__(f"{self.description} (JetStream error {self.code})")


async def call(
    connection: Connection, subject: str, body: Any = None, *, timeout: float = API_TIMEOUT
) -> dict[str, Any]:
    """Send one request to `$JS.API.<subject>` and return its answer.

    Raises `ApiError`, and what `Connection.ask` raises.
    """
    data = b"" if body is None else orjson.dumps(body)
    reply = await connection.ask(f"$JS.API.{subject}", data, timeout=timeout)
    answer: dict[str, Any] = orjson.loads(reply.data)
    if error := answer.get("error"):
        raise ApiError(error)
    return answer


async def repeated(
    connection: Connection, what: Callable[[], Awaitable[T]], *, total: float = TOTAL_TIMEOUT
) -> T:
    """Return what a call that may be repeated returns, tried for `total` seconds.

    Raises `DependencyUnavailableError` when the broker did not answer in that time.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + total
    while True:
        try:
            return await what()
        except UNREACHED as exc:
            await pause(connection, deadline, exc)
        except ApiError as exc:
            if exc.code not in TRANSIENT:
                raise unavailable(str(exc)) from exc
            await pause(connection, deadline, exc)


async def pause(connection: Connection, deadline: float, why: Exception) -> None:
    """Wait for the next try of something that failed because of `why`.

    Raises `DependencyUnavailableError` when the loop's time is past `deadline`.
    """
    left = deadline - asyncio.get_running_loop().time()
    if left <= PAUSE:
        raise unavailable(describe(why)) from why
    try:
        await connection.wait_up(left)
    except DisconnectedError as exc:
        raise unavailable(describe(exc)) from exc
    await asyncio.sleep(PAUSE / 10 if isinstance(why, DisconnectedError) else PAUSE)


def describe(why: Exception) -> str:
    """Return one sentence that says why the broker could not be used."""
    if isinstance(why, TimeoutError):
        return "NATS did not answer in time"
    if isinstance(why, NoRespondersError):
        return (
            f"nothing in NATS answers on {why}: the stream is missing or JetStream is disabled "
            "(a full disk disables it); see `agentos doctor` and the NATS server's log"
        )
    return str(why)


def unavailable(message: str) -> DependencyUnavailableError:
    """Return the error for a broker that cannot do its work."""
    return DependencyUnavailableError(message, dependency="nats")
