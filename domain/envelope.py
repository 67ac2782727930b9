"""The public event envelope and its one serialised form.

A line made here is what the log stores and what SSE, subscribers, federation and exports
show, byte for byte. Optional parts of a payload that have no value are left out; the
envelope's own fields are always present.
"""

from typing import Any, ClassVar, Final

from pydantic import AfterValidator, BaseModel, ConfigDict
from pydantic_core import from_json, to_json

from agentos.domain.auth import Principal
from agentos.domain.values import value

SCHEMA_VERSION: Final = 1
NO_TRACE: Final = "00-00000000000000000000000000000000-0000000000000000-00"
HEADROOM: Final = 32


class Payload(BaseModel):
    """What one type of event says. `TYPE` is its name on disk and on the wire, for ever."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())

    TYPE: ClassVar[str]


def fits_a_line(value: object) -> None:
    """Raise `ValueError` unless a line that holds `value` can be read back.

    That is: it is JSON, its text is valid Unicode, and it is not nested so deep that a reader
    gives up. What came from outside and is no plain text is checked before it is written: a
    line that cannot be read would stop every reader of the log for ever.
    """
    from_json(b"[" * HEADROOM + to_json(value) + b"]" * HEADROOM)


def _readable(value: Any) -> Any:
    try:
        fits_a_line(value)
    except ValueError as exc:
        raise ValueError("not valid Unicode, not JSON, or nested too deep") from exc
    return value


Readable: Final = AfterValidator(_readable)


def is_none(value: object) -> bool:
    """For `Field(exclude_if=is_none)`: an optional field without a value is left out."""
    return value is None


@value
class Trace:
    """The W3C trace an event belongs to."""

    traceparent: str
    span_id: str


@value
class Event:
    """One fact. `sequence` counts 1, 2, 3 … within its aggregate, `time` is epoch ms.

    Run events have `run_id`, `agent_id` and (or null) `step_id`; the others have `principal`.
    """

    event_id: str
    sequence: int
    time: int
    tenant_id: str
    trace: Trace
    payload: Payload
    agent_id: str | None = None
    run_id: str | None = None
    step_id: str | None = None
    principal: Principal | None = None

    @property
    def type(self) -> str:
        """The event's name on disk and on the wire."""
        return self.payload.TYPE


@value
class Origin:
    """Where a decision's events come from: the trace, the principal, its tenant and command."""

    traceparent: str
    principal: Principal
    command_id: str = ""
    causation_id: str = ""
    correlation_id: str = ""
    tenant_id: str = ""

    @property
    def trace(self) -> Trace:
        """The trace of the events that follow."""
        return Trace(self.traceparent, self.traceparent[36:52])


def to_line(event: Event, time: str) -> bytes:
    """Return the envelope as one line of JSON (without the newline).

    `time` is `rfc3339(event.time)`, passed in because all events of a commit share it.
    Ids, types and trace hold no character that JSON escapes (see `ids`), the rest goes
    through pydantic.
    """
    if event.run_id is not None:
        step = "null" if event.step_id is None else f'"{event.step_id}"'
        who = f'"agent_id":"{event.agent_id}","run_id":"{event.run_id}","step_id":{step}'
    else:
        agent = "" if event.agent_id is None else f'"agent_id":"{event.agent_id}",'
        who = f'{agent}"principal":{to_json(event.principal).decode()}'
    head = (
        f'{{"event":{{"event_id":"{event.event_id}","sequence":{event.sequence},'
        f'"time":"{time}","type":"{event.type}","tenant_id":"{event.tenant_id}",{who},'
        f'"trace":{{"traceparent":"{event.trace.traceparent}",'
        f'"span_id":"{event.trace.span_id}"}},"payload":'
    )
    return b"".join((head.encode(), to_json(event.payload), b"}}"))


def read_line(line: bytes) -> dict[str, Any]:
    """Return the inner object of a line, unvalidated."""
    inner: dict[str, Any] = from_json(line)["event"]
    return inner


def by_type(*payloads: type[Payload]) -> dict[str, type[Payload]]:
    """Return the payload classes by their type names; a name that stands twice is an error."""
    table = {payload.TYPE: payload for payload in payloads}
    if len(table) != len(payloads):
        raise ValueError("two payload classes share a type name")
    return table
