"""What every answer of these doors has: AgentOS's own member, and its headers."""

from typing import Any

from starlette.types import Receive, Scope, Send

from agentos.gateways.model_policy.calls import Outcome

Header = tuple[bytes, bytes]
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


def own_headers(outcome: Outcome) -> list[Header]:
    """Return the headers that say where a call went, what policy made of it, and its cost."""
    return [
        (b"x-agentos-backend", _value(outcome.backend)),
        (b"x-agentos-model", _value(outcome.model)),
        (b"x-agentos-policy", outcome.decision.encode()),
        (b"x-agentos-cost-usd", b"%.6f" % outcome.cost_usd),
    ]


def _value(text: str) -> bytes:
    """Return a name as a header's value: what no header can hold becomes a question mark."""
    if text.isascii() and text.isprintable():
        return text.encode()
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in text).encode()


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
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": self._body})
