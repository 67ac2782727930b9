"""One call of an OpenAI client: its body, who makes it, and that it ends with its connection."""

import asyncio
import hashlib
import re
from types import TracebackType
from typing import Final, Protocol, cast

from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive, Scope, Send

from agentos.domain.errors import DependencyUnavailableError, InvalidJsonError
from agentos.domain.ids import FREE_ID_PATTERN, derived_id
from agentos.gateways.http.authorization import require
from agentos.gateways.http.bodies import BodyAuth, narrowed
from agentos.gateways.http.call import call_of
from agentos.gateways.http.parameters import Parameter
from agentos.gateways.http.server import Connection
from agentos.gateways.model_policy.calls import Caller, Pipeline

FREE_ID: Final = re.compile(FREE_ID_PATTERN)
SCOPE: Final = "models:invoke"
IDEMPOTENCY_KEY: Final = Parameter(
    "Idempotency-Key", "repeated with the same body, the call returns its first answer", "header"
)


class HasPipeline(Protocol):
    """The parts of the model door, as far as these routes need them."""

    @property
    def pipeline(self) -> Pipeline:
        """The one way of every model call."""
        ...


def pipeline_of(request: Request) -> Pipeline:
    """Return the pipeline that the app was made with."""
    return cast("HasPipeline", request.app.state.parts).pipeline


async def read_raw(request: Request) -> bytes:
    """Return the body's bytes; `InvalidJsonError` when the client leaves within it."""
    try:
        return await request.body()
    except ClientDisconnect as exc:
        raise InvalidJsonError("the body ended early") from exc


def begin(scope: Scope, raw: bytes, body_auth: BodyAuth | None) -> tuple[Caller, str]:
    """Return who calls, and the id of this request.

    With an `Idempotency-Key` the id follows from tenant, principal, route and key, and the
    body's digest tells a repeat from a misuse of the key. The id is in `X-Request-Id`.
    """
    call = call_of(scope)
    auth = call.caller
    if body_auth is not None:
        auth = narrowed(auth, body_auth)
        require(auth, SCOPE)
    key = _idempotency_key(scope)
    if key is None:
        return Caller(auth, call.correlation_id, call.traceparent), call.request_id
    who = (auth.tenant_id, auth.principal.principal_id)
    call.request_id = derived_id("req", *who, f"{scope['method']} {call.route}", key)
    digest = hashlib.sha256(raw).hexdigest()
    caller = Caller(auth, call.correlation_id, call.traceparent, fingerprint=digest)
    return caller, call.request_id


def _idempotency_key(scope: Scope) -> str | None:
    key: str | None = None
    for name, value in scope["headers"]:
        if name == b"idempotency-key":
            text = value.decode("utf-8", "replace")
            if key is not None or not FREE_ID.match(text):
                raise IDEMPOTENCY_KEY.misfit("not 1-256 printable characters, once")
            key = text
    return key


class ClientLeftError(Exception):
    """The client closed its connection: nobody waits for an answer any more."""


class WhileConnected:
    """A block whose task is cancelled when the client leaves, or by `interrupt`.

    It then raises `ClientLeftError`, or what it was interrupted with. A cancellation from
    elsewhere means that the process stops, and is `DependencyUnavailableError`.
    """

    __slots__ = ("_connection", "_is_open", "_reason", "_task", "_was_cancelled")

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._reason: Exception | None = None
        self._is_open = True
        self._was_cancelled = False

    def __enter__(self) -> "WhileConnected":
        if self._connection.transport.is_closing():
            raise ClientLeftError
        self._task = asyncio.current_task()
        self._connection.on_lost = self._lose
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._is_open = False
        self._connection.on_lost = None
        if self._was_cancelled and self._task is not None:
            self._task.uncancel()
        if self._reason is not None and (kind is None or kind is asyncio.CancelledError):
            raise self._reason from None
        if kind is asyncio.CancelledError:
            raise DependencyUnavailableError("the gateway stops", dependency="gateway") from error

    def interrupt(self, reason: Exception) -> None:
        """End the block with `reason`, as soon as its task waits for something."""
        if self._is_open and self._reason is None:
            self._reason = reason
            asyncio.get_running_loop().call_soon(self._cancel)

    def _lose(self) -> None:
        self.interrupt(ClientLeftError())

    def _cancel(self) -> None:
        if self._is_open and self._task is not None:
            self._task.cancel()
            self._was_cancelled = True


async def nothing(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer nothing: the client is gone."""
