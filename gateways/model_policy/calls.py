"""One governed model call: who makes it, what is asked, and what the gates made of it."""

from collections.abc import Callable, Mapping
from dataclasses import field
from typing import Any, Literal, Protocol

from agentos.domain.auth import AuthContext
from agentos.domain.ports import EmbedAnswer, EmbedRequest, ModelAnswer, ModelRequest, OnDelta
from agentos.domain.tracing.ids import NO_PARENT
from agentos.domain.values import value

Decision = Literal["allowed", "blocked", "redacted"]


@value
class Caller:
    """Who calls, on whose behalf. `agent_id` and `run_id` are set for the runtime's own calls.

    `fingerprint` is a digest of what was asked: with one, `request.request_id` makes the call
    idempotent. Without, the call is made as often as it comes. `is_first_attempt` is the
    runtime's word that nobody asked under this id before; `sealed` is its word for the key of the
    run's content, which what is kept of the call is sealed with.
    `traceparent` is the call's own span, `parent_span_id` what it is a part of.
    """

    auth: AuthContext
    correlation_id: str
    traceparent: str
    agent_id: str | None = None
    run_id: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    fingerprint: str | None = None
    is_first_attempt: bool = False
    sealed: str = ""
    parent_span_id: str = NO_PARENT


@value
class Outcome:
    """What the gates said, where the call went, and what it cost.

    `redactions` are the contract's `{type, start, end, replacement, field}`.
    """

    request_id: str
    decision: Decision
    reasons: tuple[str, ...]
    redactions: tuple[Mapping[str, Any], ...]
    backend: str
    model: str
    node: str
    fallback_used: bool
    latency_ms: int
    cost_usd: float

    def policy(self) -> dict[str, Any]:
        """Return the contract's `policy_outcome`."""
        return {
            "decision": self.decision,
            "reasons": list(self.reasons),
            "redactions": [dict(one) for one in self.redactions],
        }

    def route(self) -> dict[str, Any]:
        """Return the contract's `route`."""
        return {
            "backend": self.backend,
            "model": self.model,
            "node": self.node,
            "fallback_used": self.fallback_used,
        }


@value
class Begun:
    """What is known of an answer before its first text: whose it is, and what policy said so far.

    A later one replaces it: another target is asked.
    """

    backend: str
    model: str
    decision: Decision


OnBegun = Callable[[Begun], None]


@value
class Completed:
    """A chat call's answer as the caller may see it (redacted), and its outcome."""

    answer: ModelAnswer
    outcome: Outcome


@value
class Embedded:
    """An embedding call's answer, and its outcome."""

    answer: EmbedAnswer
    outcome: Outcome


class Pipeline(Protocol):
    """Every model call of this node, however it comes: the same gates in the same order.

    Raises the contract's errors: `InvalidRequestError` (unknown model, output tokens over
    the limit), `ForbiddenError` (not entitled), `RateLimitedError`, `QuotaExceededError`,
    `PolicyBlockedError`, `ConflictError` (the request id was used for another body),
    `ProviderError`, `DependencyUnavailableError`, `TimedOutError`. An error after the first
    delta means that the answer broke off. Cancellation stops the call upstream; what was used
    is charged.
    """

    async def chat(
        self,
        caller: Caller,
        request: ModelRequest,
        on_delta: OnDelta | None = None,
        on_begun: OnBegun | None = None,
    ) -> Completed:
        """Make one chat call; `on_delta` gets the text in pieces, as policy lets it through.

        `on_begun` is told who is asked, before the first piece.
        """
        ...

    async def embed(self, caller: Caller, request: EmbedRequest) -> Embedded:
        """Make one embedding call."""
        ...
