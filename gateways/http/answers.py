"""JSON answers made once, as bytes, without a model on the way out."""

from collections.abc import Mapping
from typing import Any, Final

import orjson
from starlette.types import Receive, Scope, Send

from agentos.gateways.http.call import SCOPE_KEY, Call, Header
from agentos.gateways.http.connection import send_whole

JSON: Final = (b"content-type", b"application/json")


class Answer:
    """A whole response as bytes: an ASGI application that sends itself.

    Leaner than Starlette's Response, which the accept path would feel.
    """

    __slots__ = ("body", "headers", "status")

    def __init__(
        self, body: bytes, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> None:
        self.body = body
        self.status = status
        self.headers = headers or {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        head = [(name.lower().encode(), value.encode()) for name, value in self.headers.items()]
        if self.status != 204:
            if "content-type" not in self.headers:
                head.append(JSON)
            head.append((b"content-length", str(len(self.body)).encode()))
        await answer_whole(scope, send, self.status, head, self.body)


async def answer_whole(
    scope: Scope, send: Send, status: int, headers: list[Header], body: bytes
) -> None:
    """Send a whole answer with the headers that every answer to its request carries."""
    call: Call | None = scope.get(SCOPE_KEY)
    if call is not None:
        marked = [*headers, *call.headers()]
        if send_whole(scope, status, marked, body):
            call.status = status
            return
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def json_answer(
    content: Mapping[str, Any],
    correlation_id: str,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """Return `content` as JSON, with the correlation id that every body carries."""
    body = orjson.dumps({**content, "correlation_id": correlation_id})
    return Answer(body, status, headers)
