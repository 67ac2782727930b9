"""What every answer of these doors has: AgentOS's own member, and its headers."""

from typing import Any

from starlette.types import Receive, Scope, Send

from agentos.gateways.http.answers import answer_whole
from agentos.gateways.model_policy.calls import Outcome
from agentos.gateways.model_policy.own_headers import Header, own_headers

JSON_TYPE: Header = (b"content-type", b"application/json")


def own_member(outcome: Outcome, correlation_id: str) -> dict[str, Any]:
    """Return the `agentos` member of an OpenAI object."""
    return {
        "policy_outcome": outcome.policy(),
        "route": outcome.route(),
        "latency_ms": outcome.latency_ms,
        "cost_usd": outcome.cost_usd,
        "correlation_id": correlation_id,
    }


def model_id(outcome: Outcome) -> str:
    """Return who answered as a client may ask for it again: `<backend>/<model>`."""
    return f"{outcome.backend}/{outcome.model}"


class OpenAIAnswer:
    """A whole answer with the headers of its outcome: an ASGI application that sends itself."""

    __slots__ = ("_body", "_outcome")

    def __init__(self, body: bytes, outcome: Outcome) -> None:
        self._body = body
        self._outcome = outcome

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        length = (b"content-length", b"%d" % len(self._body))
        headers = [JSON_TYPE, length, *own_headers(self._outcome)]
        await answer_whole(scope, send, 200, headers, self._body)
