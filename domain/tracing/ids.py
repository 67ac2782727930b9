"""Span ids: which span an event belongs to, and what that is a part of.

An event's `trace` is the span it belongs to: `span_id` is the parent id of its `traceparent`,
so whoever continues from an event becomes a child of what the event tells of. A request has a
span, made at the door, and the run or model call that it asks for is that span; the event that
begins it says what it is a part of (`parent_span_id`). A step's span follows from its id, so
that every process, and every replay, knows it.
"""

import hashlib
from typing import Final

from agentos.domain.envelope import NO_TRACE, Trace

NO_PARENT: Final = "0" * 16
SPAN_ID_PATTERN: Final = r"^[0-9a-f]{16}$"


def span_of(an_id: str) -> str:
    """Return the one span id that follows from an id; never `NO_PARENT`.

    Raises `TypeError` for a damaged log's id that is no text.
    """
    digest = hashlib.blake2b(str.encode(an_id), digest_size=8).hexdigest()
    return digest if digest != NO_PARENT else "1".zfill(16)


def child_of(traceparent: str, span_id: str) -> str:
    """Return the traceparent of a span in the same trace, as sampled as that is."""
    return f"{traceparent[:36]}{span_id}{traceparent[52:]}"


def trace_of_step(run: Trace, step_id: str) -> Trace:
    """Return the span of a run's step."""
    span_id = span_of(step_id)
    return Trace(child_of(run.traceparent, span_id), span_id)


def trace_id_of(traceparent: str, an_id: str) -> str:
    """Return the trace that a traceparent is of; one of its own for what began without a trace."""
    trace_id = traceparent[3:35]
    if trace_id != NO_TRACE[3:35]:
        return trace_id
    return hashlib.blake2b(an_id.encode(), digest_size=16).hexdigest()


def is_sampled(traceparent: str) -> bool:
    """Whether a trace is to be kept: unless its caller said that it is not."""
    return traceparent == NO_TRACE or bool(int(traceparent[53:55], 16) & 1)


def parent_in(trace: Trace, parent_span_id: str | None) -> str | None:
    """Return what the span of an event is a part of, `None` for the first of its trace.

    Events of before did not say it: their own trace is the caller's span.
    """
    found = trace.span_id if parent_span_id is None else parent_span_id
    return None if found == NO_PARENT else found


def own_span(trace: Trace, parent_span_id: str | None, an_id: str) -> str:
    """Return the span of what an event begins; for events of before it follows from the id."""
    return span_of(an_id) if parent_span_id is None else trace.span_id


def log_fields(traceparent: str) -> dict[str, str]:
    """Return what a log line says of the span that it belongs to."""
    if traceparent == NO_TRACE:
        return {}
    return {"trace_id": traceparent[3:35], "span_id": traceparent[36:52]}
