"""The parameters of the orchestrator's routes."""

import re
from typing import Final

from starlette.requests import Request

from agentos.domain.ids import FREE_ID_PATTERN, derived_id, is_named_id
from agentos.domain.run.events import RUN_EVENTS, SHORT_NAMES
from agentos.gateways.http.call import call_of
from agentos.gateways.http.errors import misfit
from agentos.gateways.http.parameters import (
    MAX_POSITION,
    Choice,
    Flag,
    Number,
    Parameter,
    PathId,
    PathName,
    Time,
)
from agentos.projections.runs.queries import RunFilters

FREE_ID: Final = re.compile(FREE_ID_PATTERN)
MAX_LABELS: Final = 16
LABEL: Final = "label."

RUN_ID: Final = PathId("run_id", "the run's id")
APPROVAL_ID: Final = PathName("approval_id", "the approval's id")
AGENT_ID: Final = PathId("agent_id", "the agent's id")
LIMIT: Final = Number("limit", "how many at most", 1, 200, 50)
CURSOR: Final = Parameter("cursor", "`next_cursor` of the page before")
STATUS: Final = Choice(
    "status", "only runs in this state", "queued", "running", "completed", "failed", "canceled"
)
OF_AGENT: Final = Parameter(
    "agent_id",
    "only of this agent",
    schema={"type": "string", "pattern": AGENT_ID.schema["pattern"]},
)
CREATED_AFTER: Final = Time("created_after", "only runs made after this time")
CREATED_BEFORE: Final = Time("created_before", "only runs made before this time")
TIMEOUT_MS: Final = Number("timeout_ms", "how long to wait", 0, 60_000, 30_000)
TYPES: Final = Parameter("types", "only events of these types, comma separated; short names too")
DELTAS: Final = Flag("deltas", "pieces of streamed answers too, as `agentos.delta`")
AFTER_SEQUENCE: Final = Number("after_sequence", "resume behind this event", 0, MAX_POSITION)
FROM_SEQUENCE: Final = Number("from_sequence", "the same as after_sequence", 0, MAX_POSITION)
AFTER: Final = Parameter("after", "resume behind the event with this id")
LAST_EVENT_ID: Final = Parameter("Last-Event-ID", "resume behind the event with this id", "header")
IDEMPOTENCY_KEY: Final = Parameter(
    "Idempotency-Key", "repeated, the call returns its first answer", "header"
)


def run_filters(request: Request) -> RunFilters:
    """Return which runs a list asks for."""
    return RunFilters(
        status=STATUS.read(request),
        agent_id=read_agent_filter(request),
        created_after=CREATED_AFTER.read(request),
        created_before=CREATED_BEFORE.read(request),
        labels=_labels(request),
    )


def _labels(request: Request) -> tuple[tuple[str, str], ...]:
    found = [
        (name.removeprefix(LABEL), value)
        for name, value in request.query_params.multi_items()
        if name.startswith(LABEL) and name != LABEL
    ]
    if len(found) > MAX_LABELS:
        raise misfit(["query", "label"], f"more than {MAX_LABELS} labels")
    return tuple(sorted(set(found)))


def read_agent_filter(request: Request) -> str | None:
    """Return the agent that a list or stream is narrowed to."""
    agent_id = OF_AGENT.raw(request)
    if agent_id is not None and not is_named_id(agent_id):
        raise OF_AGENT.misfit("not an agent id")
    return agent_id


def read_types(request: Request) -> frozenset[str] | None:
    """Return the event types that a stream is narrowed to, `None` for all of them."""
    text = TYPES.raw(request)
    if text is None:
        return None
    names = [name.strip() for name in text.split(",") if name.strip()]
    types = frozenset(SHORT_NAMES.get(name, name) for name in names)
    for name in sorted(types - RUN_EVENTS.keys()):
        raise TYPES.misfit(f"no such event type: {name[:100]!r}")
    return types or None


def read_sequence(request: Request) -> int:
    """Return the sequence behind which a run's stream resumes; 0 is its beginning.

    A query parameter goes before the header that browsers send by themselves.
    """
    for parameter in (AFTER_SEQUENCE, FROM_SEQUENCE):
        if (number := parameter.read(request)) is not None:
            return number
    sent = LAST_EVENT_ID.raw(request)
    return 0 if sent is None else AFTER_SEQUENCE.parse(sent)


def read_position(request: Request) -> tuple[int, int] | None:
    """Return log position and line behind which a tenant's stream resumes, `None` for now."""
    found = AFTER.raw(request)
    parameter = AFTER if found is not None else LAST_EVENT_ID
    text = found if found is not None else LAST_EVENT_ID.raw(request)
    if text is None:
        return None
    match = re.fullmatch(r"([0-9]{1,19})-([0-9]{1,9})", text, re.ASCII)
    if match is None or int(match[1]) > MAX_POSITION:
        raise parameter.misfit("not an event id of this stream")
    return int(match[1]), int(match[2])


def read_command_id(request: Request) -> str | None:
    """Return the id of the command that a repeat with this `Idempotency-Key` also has."""
    key = IDEMPOTENCY_KEY.raw(request)
    if key is None:
        return None
    if not FREE_ID.match(key):
        raise IDEMPOTENCY_KEY.misfit("not 1-256 printable characters")
    caller = call_of(request.scope).caller
    route = f"{request.method} {request.url.path}"
    return derived_id("cmd", caller.tenant_id, caller.principal.principal_id, route, key)
