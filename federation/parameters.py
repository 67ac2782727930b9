"""How a stream of a remote run's events is narrowed: as a local run's."""

from typing import Final

from starlette.requests import Request

from agentos.domain.run.events import SHORT_NAMES
from agentos.gateways.http.parameters import MAX_POSITION, Flag, Number, Parameter

TYPES: Final = Parameter("types", "only events of these types, comma separated; short names too")
DELTAS: Final = Flag("deltas", "pieces of streamed answers too, as `agentos.delta`")
AFTER_SEQUENCE: Final = Number("after_sequence", "resume behind this event", 0, MAX_POSITION)
FROM_SEQUENCE: Final = Number("from_sequence", "the same as after_sequence", 0, MAX_POSITION)
LAST_EVENT_ID: Final = Parameter("Last-Event-ID", "resume behind the event with this id", "header")


def read_sequence(request: Request) -> int:
    """Return the sequence behind which the stream resumes; a query goes before the header."""
    for parameter in (AFTER_SEQUENCE, FROM_SEQUENCE):
        if (number := parameter.read(request)) is not None:
            return number
    sent = LAST_EVENT_ID.raw(request)
    return 0 if sent is None else AFTER_SEQUENCE.parse(sent)


def read_types(request: Request) -> frozenset[str] | None:
    """Return the wanted types, `None` for all: a peer may have types that are not known here."""
    text = TYPES.raw(request)
    if text is None:
        return None
    names = [name.strip() for name in text.split(",") if name.strip()]
    return frozenset(SHORT_NAMES.get(name, name) for name in names) or None


def read_deltas(request: Request) -> bool:
    """Return whether pieces of streamed answers are wanted."""
    return DELTAS.read(request)
