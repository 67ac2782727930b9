"""The log's unit: one decision of one aggregate, written whole or not at all."""

from collections.abc import Callable, Sequence
from dataclasses import field

from agentos.domain.envelope import Event, to_line
from agentos.domain.subjects import StreamRef
from agentos.domain.times import rfc3339
from agentos.domain.values import value


@value
class Lease:
    """Who executes a run, and until when (epoch ms) the step in hand may take."""

    worker_id: str
    deadline_ms: int


@value
class Commit:
    """All events that one decision adds to one aggregate: one message, one fsync.

    `body` holds one public envelope a line. Without events (`types` empty, `body` empty) it
    is a void commit: it takes the subject's first place so that nothing else can, and shows
    nothing. `commit_id` is new for every decision and kept only when the very same bytes are
    sent again. `base` is the position of the aggregate's last commit with a balance event, 0
    where it has none (an audit chain's says up to where causes are recorded); `priority` is a
    queued run's. `correlation_id` and `by_tenant` say which request it came from, and from which
    tenant: the audit's to know, shown in no line. `sealed` names the key of a data subject that
    the content in the lines is, or is to be, sealed with: a run's whole life long, or never.
    `waits_until` (epoch ms) is of a run that waits
    for a person from this commit on: nobody holds it, and by then it is looked at.
    """

    ref: StreamRef
    commit_id: str
    first_sequence: int
    types: tuple[str, ...]
    body: bytes
    command_id: str = ""
    causation_id: str = ""
    lease: Lease | None = None
    base: int = 0
    priority: str = ""
    correlation_id: str = ""
    by_tenant: str = ""
    sealed: str = ""
    waits_until: int = 0

    @property
    def last_sequence(self) -> int:
        """The sequence of the last event in it."""
        return self.first_sequence + len(self.types) - 1

    @property
    def is_void(self) -> bool:
        """Whether it only closes its subject."""
        return not self.types

    def lines(self) -> list[bytes]:
        """Return the envelopes, one a line, in sequence."""
        return self.body.split(b"\n") if self.body else []


@value
class Recorded(Commit):
    """A commit as the log holds it, at its position (1, 2, 3 … over the whole partition).

    Of a sealed commit that was opened, `stored` is the body as it stands in the log. Where the
    key is gone, or is not here, it is not `readable`: the body has no content, or is sealed.
    """

    position: int = field(kw_only=True)
    stored: bytes | None = field(default=None, kw_only=True, compare=False, repr=False)
    readable: bool = field(default=True, kw_only=True)

    def stored_lines(self) -> list[bytes]:
        """Return the lines byte for byte as the log has them: what digests are made over."""
        return self.lines() if self.stored is None else self.stored.split(b"\n")


@value
class TailBatch:
    """What a tail read since its last batch; `caught_up` when nothing more was waiting."""

    records: Sequence[Recorded]
    caught_up: bool


def make_commit(
    ref: StreamRef,
    events: Sequence[Event],
    new_id: Callable[[str], str],
    *,
    command_id: str = "",
    causation_id: str = "",
    lease: Lease | None = None,
    base: int = 0,
    priority: str = "",
    correlation_id: str = "",
    by_tenant: str = "",
    sealed: str = "",
    waits_until: int = 0,
) -> Commit:
    """Return the commit that writes `events`, which follow one another in sequence."""
    times = {event.time for event in events}
    texts = {time: rfc3339(time) for time in times}
    return Commit(
        ref=ref,
        commit_id=new_id("cmt"),
        first_sequence=events[0].sequence,
        types=tuple(event.type for event in events),
        body=b"\n".join(to_line(event, texts[event.time]) for event in events),
        command_id=command_id,
        causation_id=causation_id,
        lease=lease,
        base=base,
        priority=priority,
        correlation_id=correlation_id,
        by_tenant=by_tenant,
        sealed=sealed,
        waits_until=waits_until,
    )


def void_commit(ref: StreamRef, new_id: Callable[[str], str]) -> Commit:
    """Return the commit that closes an unused subject, so that a late first event loses."""
    return Commit(ref, new_id("cmt"), 1, (), b"")
