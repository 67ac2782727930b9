"""The span of a forward: from the intent to what the peer made of it."""

from collections.abc import Sequence

from agentos.domain.envelope import Event
from agentos.domain.federation.forward import ForwardAccepted, ForwardFailed, ForwardRequested
from agentos.domain.subjects import StreamRef
from agentos.domain.tracing import span as s
from agentos.domain.tracing.ids import is_sampled, own_span, parent_in, trace_id_of
from agentos.domain.tracing.span import Span, Value, present


def forward_span(ref: StreamRef, events: Sequence[Event]) -> Span | None:
    """Return the span that a forward's last event ended; `None` when it ended none, or unkept.

    `events` are all of the forward's, up to that one.
    """
    ended = events[-1]
    asked = next((e for e in reversed(events) if isinstance(e.payload, ForwardRequested)), None)
    if asked is None or not is_sampled(asked.trace.traceparent):
        return None
    if not isinstance(ended.payload, ForwardAccepted | ForwardFailed):
        return None
    requested = ForwardRequested.model_validate(asked.payload)
    said = ended.payload
    attributes: dict[str, Value | None] = {
        s.AGENT_ID: requested.agent_id,
        s.TENANT_ID: ref.tenant_id,
        "agentos.forward.id": ref.aggregate_id,
        "agentos.forward.stack_id": requested.stack_id,
        "agentos.forward.attempt": requested.attempt,
        s.RUN_ID: said.remote_run_id if isinstance(said, ForwardAccepted) else None,
    }
    return Span(
        trace_id=trace_id_of(asked.trace.traceparent, asked.event_id),
        span_id=own_span(asked.trace, requested.parent_span_id, asked.event_id),
        parent_span_id=parent_in(asked.trace, requested.parent_span_id),
        name=f"forward {requested.stack_id}",
        kind="client",
        start_ms=asked.time,
        end_ms=ended.time,
        attributes=present(attributes),
        error=said.error.code if isinstance(said, ForwardFailed) else None,
    )
