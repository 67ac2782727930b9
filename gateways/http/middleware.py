"""The one layer around every door's routes: ids, the error table, body limit, the figures.

Plain ASGI, right on FastAPI's router: its own layers would answer errors in other shapes, and
cost as much as our endpoints.
"""

from collections.abc import Mapping
from time import perf_counter

from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agentos.domain.errors import PayloadTooLargeError
from agentos.domain.ports import NewId
from agentos.gateways.http.call import SCOPE_KEY, begin_call
from agentos.gateways.http.errors import as_our_error, error_answer
from agentos.gateways.http.metrics import Metrics
from agentos.gateways.http.routing import allowed_methods, exact_routes


class Doorway:
    """Begins the call, answers its errors, and counts it. `larger` bodies go to some paths."""

    def __init__(
        self,
        app: FastAPI,
        *,
        service: str,
        new_id: NewId,
        metrics: Metrics,
        max_body_bytes: int,
        larger: Mapping[str, int] | None = None,
    ) -> None:
        self._app = app
        self._service = service
        self._new_id = new_id
        self._metrics = metrics
        self._max_body_bytes = max_body_bytes
        self._larger = larger or {}
        self._exact: dict[tuple[str, str], ASGIApp] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        began = perf_counter()
        call = begin_call(scope["headers"], self._new_id)
        scope[SCOPE_KEY] = call
        scope["app"] = self._app

        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                call.status = message["status"]
                message["headers"] = [*message.get("headers", ()), *call.headers()]
            await send(message)

        try:
            limit = self._larger.get(scope["path"], self._max_body_bytes)
            limited = limited_receive(scope, receive, limit)
            await self._found(scope)(scope, limited, send_marked)
        except Exception as exc:  # the outermost of a request: every failure has its answer
            error = as_our_error(exc, call.log_fields())
            if call.status:
                raise
            if error.code == "method_not_allowed":
                error.details["allowed"] = allowed_methods(self._app, scope["path"])
            # By path, not by route: the families' clients read 404, 405 and 413 too.
            shaped = self._app.state.error_answers.get(scope["path"], error_answer)
            await shaped(error, call.correlation_id)(scope, receive, send_marked)
        finally:
            # A stream's length says nothing about our speed, so only its answer is counted.
            seconds = None if call.is_stream else perf_counter() - began
            self._metrics.count(self._service, call.route, scope["method"], call.status, seconds)

    def _found(self, scope: Scope) -> ASGIApp:
        """Return what serves a path: a route without parameters by its name, else the router."""
        if self._exact is None:
            self._exact = exact_routes(self._app)
        return self._exact.get((scope["method"], scope["path"]), self._app.router)


def limited_receive(scope: Scope, receive: Receive, limit: int) -> Receive:
    """Return a `receive` that raises `PayloadTooLargeError` once more than `limit` bytes came.

    A body that announces its size is refused before it is read. Requests without a body,
    the most, keep their `receive`.
    """
    announced: bytes | None = None
    chunked = False
    for name, value in scope["headers"]:
        if name == b"content-length":
            announced = value
        elif name == b"transfer-encoding":
            chunked = True
    if announced is not None and not chunked:
        if int(announced) > limit:
            raise PayloadTooLargeError("the body is too large", limit=limit)
        return receive
    if not chunked:
        return receive
    taken = 0

    async def counted() -> Message:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        if taken > limit:
            raise PayloadTooLargeError("the body is too large", limit=limit)
        return message

    return counted
