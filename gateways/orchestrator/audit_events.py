"""A tenant's audit chain as a stream: records as they are made, resumed without gap or repeat."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, ClassVar, Final

from pydantic_core import from_json
from starlette.requests import Request

from agentos.domain.audit.chain import chain_ref
from agentos.gateways.http.parameters import Number, Time
from agentos.gateways.http.sse import Stream
from agentos.gateways.http.tail import AUDIT, Framed
from agentos.gateways.orchestrator.audit import FILTERS, read_filters, tenant_of
from agentos.gateways.orchestrator.parts import Parts, parts_of
from agentos.gateways.orchestrator.queries import AFTER, LAST_EVENT_ID, read_position
from agentos.gateways.orchestrator.tenant_events import TenantEvents, Wanted
from agentos.projections.audit_records.queries import AuditFilters

SINCE: Final = Time("since", "begin with the records made at this time or later")
LINES: Final = 999_999_999
"""Behind every line of a commit, in a cursor."""
LAST: Final = Number("last", "begin with so many of the newest records", 0, 10_000, 0)
PARAMETERS: Final = (*FILTERS, SINCE, LAST, AFTER, LAST_EVENT_ID)


async def stream_audit_events(request: Request) -> "AuditEvents":
    """Stream a tenant's audit records as they are made, oldest first.

    Without `since`, `last`, `after` and `Last-Event-ID` it begins with what is recorded from
    now on. A platform admin may name another tenant: each such stream is itself recorded, once,
    in that tenant's chain, before anything is shown.
    """
    parts, filters = parts_of(request), read_filters(request)
    since, last = SINCE.read(request), LAST.read(request) or 0
    after = read_position(request)
    tenant_id = tenant_of(request)
    if after is None and (since is not None or last):
        after = await parts.reads.find_audit_start(tenant_id, filters, since, last)
    return AuditEvents(parts, Wanted(tenant_id, after, None, None), filters)


class AuditEvents(TenantEvents):
    """The stream of one client: an ASGI application that answers one request."""

    kinds: ClassVar = AUDIT

    def __init__(self, parts: Parts, wanted: Wanted, filters: AuditFilters) -> None:
        super().__init__(parts, wanted)
        self._chain = chain_ref(wanted.tenant_id)
        self._asked = {name: str(value) for name, value in filters.given().items()}

    def _listening(self, stream: Stream) -> AbstractContextManager[int]:
        return self._listening_to_chain(stream)

    @contextmanager
    def _listening_to_chain(self, stream: Stream) -> Iterator[int]:
        now = self._parts.tail.reached_position()
        with self._parts.tail.listening_to(self._chain, stream):
            yield now

    async def _follow(self, stream: Stream) -> None:
        # An id alone is no event: it says where to resume before there was one.
        await stream.write(b"id: %d-%d\n\n" % (self._position, min(self._line, LINES)))
        await super()._follow(stream)

    def _shown(self, item: Framed, skipped: int) -> Sequence[bytes]:
        if item.record.ref != self._chain:  # checkpoints, which are beside it
            return ()
        frames = item.tenant_frames[skipped:]
        if not self._asked:
            return frames
        lines = item.record.lines()[skipped:]
        return [frame for frame, line in zip(frames, lines, strict=True) if self._is_asked(line)]

    def _is_asked(self, line: bytes) -> bool:
        said: Mapping[str, Any] = from_json(line)["event"]["payload"]
        found = {**said, "principal_id": said["principal"]["principal_id"]}
        return all(found.get(name) == value for name, value in self._asked.items())
