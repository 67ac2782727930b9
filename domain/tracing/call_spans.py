"""The span of a model call: `chat` or `embeddings`, and where the call went."""

from collections.abc import Callable
from typing import Final

from agentos.domain.envelope import Event
from agentos.domain.tracing import span as s
from agentos.domain.tracing.ids import is_sampled, own_span, parent_in, trace_id_of
from agentos.domain.tracing.span import Span, Value, present
from agentos.domain.usage.usage import UsageRecorded

OPERATIONS: Final = {"chat": "chat", "embed": "embeddings"}
ProviderOf = Callable[[str, str], str]


def call_span(event: Event, usage: UsageRecorded, provider_of: ProviderOf) -> Span | None:
    """Return the span of a model call that ended; `None` where its trace is not kept.

    `provider_of(backend, model)` is its provider's name. Calls of before did not say when they
    ended: that their end was written down is the nearest there is.
    """
    if not is_sampled(event.trace.traceparent):
        return None
    end_ms = event.time if usage.ended_ms is None else usage.ended_ms
    return Span(
        trace_id=trace_id_of(event.trace.traceparent, event.event_id),
        span_id=own_span(event.trace, usage.parent_span_id, event.event_id),
        parent_span_id=parent_in(event.trace, usage.parent_span_id),
        name=f"{OPERATIONS[usage.operation]} {usage.model_ref}",
        kind="client",
        start_ms=end_ms - usage.latency_ms,
        end_ms=end_ms,
        attributes=_attributes(event, usage, provider_of),
        error=error_type(usage),
    )


def error_type(usage: UsageRecorded) -> str | None:
    """Return the `error.type` of a call without a whole answer."""
    if usage.status == "ok":
        return None
    return usage.error.code if usage.error is not None else usage.status


def _attributes(event: Event, usage: UsageRecorded, provider_of: ProviderOf) -> dict[str, Value]:
    was_made = bool(usage.backend)
    counted = usage.status == "ok" or usage.usage.total_tokens > 0
    route, policy = usage.route, usage.policy
    return present(
        {
            s.OPERATION: OPERATIONS[usage.operation],
            s.PROVIDER: provider_of(usage.backend, usage.model) if was_made else s.OURS,
            s.REQUEST_MODEL: usage.model_ref,
            s.REQUEST_STREAM: True if usage.streamed else None,
            s.RESPONSE_MODEL: usage.model if usage.status == "ok" else None,
            s.INPUT_TOKENS: usage.usage.input_tokens if counted else None,
            s.OUTPUT_TOKENS: usage.usage.output_tokens if counted else None,
            s.AGENT_ID: usage.agent_id,
            s.TENANT_ID: event.tenant_id,
            s.RUN_ID: usage.run_id,
            "agentos.request.id": usage.request_id,
            "agentos.node": usage.node,
            "agentos.backend": usage.backend or None,
            "agentos.call.status": usage.status,
            "agentos.cost_usd": usage.cost_usd,
            "agentos.route.name": route.name if route else None,
            "agentos.route.attempts": len(route.attempts) if route else None,
            "agentos.route.fallback_used": route.fallback_used if route else None,
            "agentos.policy.decision": policy.decision if policy else None,
            "agentos.stands_for": usage.stands_for,
        }
    )
