"""The headers that say what became of a model call."""

from agentos.gateways.model_policy.calls import Begun, Outcome

Header = tuple[bytes, bytes]


def own_headers(about: Outcome | Begun) -> list[Header]:
    """Return the headers that say where a call went, what policy made of it, and its cost.

    The cost of what has only begun is not known.
    """
    headers = [
        (b"x-agentos-backend", _value(about.backend)),
        (b"x-agentos-model", _value(about.model)),
        (b"x-agentos-policy", about.decision.encode()),
    ]
    if isinstance(about, Outcome):
        headers.append((b"x-agentos-cost-usd", b"%.6f" % about.cost_usd))
    return headers


def _value(text: str) -> bytes:
    """Return a name as a header's value: what no header can hold becomes a question mark."""
    if text.isascii() and text.isprintable():
        return text.encode()
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in text).encode()
