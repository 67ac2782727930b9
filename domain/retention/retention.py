"""What went of a tenant's log: planned, begun, applied, one plan after the other.

`planned` says what is to go, once its archive is on disk. `begun` says that from here on it may
be gone: it is in the log before the first event is removed, so whoever finds a gap can know why.
`applied` says that it is gone. Every event holds what is gone in all, so its last commit is
enough to go on with, but for a plan that was begun.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from agentos.domain.aggregate import Aggregate, FoldError, Moment, next_event, read_events
from agentos.domain.envelope import Event, Payload, by_type, is_none
from agentos.domain.errors import CursorExpiredError
from agentos.domain.log import Recorded
from agentos.domain.retention.rules import Kind
from agentos.domain.subjects import StreamRef

Phase = Literal["idle", "planned", "begun"]
KIND: Final = "retention"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Stream(_Part):
    """One aggregate of which everything up to and with position `through` goes."""

    kind: str
    id: str
    through: int


class Archive(_Part):
    """The file that holds what goes: its name in the node's archive directory, and its proof.

    `digest` is that of its content, as `agentos log digest` reckons it.
    """

    name: str
    sha256: str
    bytes: int
    digest: str


class Gone(_Part):
    """What is gone of a kind in all; nothing of it lies behind (`position`, `line`)."""

    position: int = 0
    line: int = 0
    items: int = 0
    commits: int = 0
    events: int = 0


class RetentionPlanned(Payload):
    """This is to go: what ended up to `before`. Without an archive it will be nowhere.

    Its commits lie from position `first` to `position`.
    """

    TYPE: ClassVar = "agentos.retention.planned"
    plan_id: str
    kind: Kind
    age_ms: int
    before: str
    streams: list[Stream]
    items: int
    commits: int
    events: int
    position: int
    line: int
    archive: Archive | None = Field(default=None, exclude_if=is_none)
    first: int | None = Field(default=None, exclude_if=is_none)
    gone: dict[str, Gone]


class RetentionBegun(Payload):
    """From here on what was planned may be gone."""

    TYPE: ClassVar = "agentos.retention.begun"
    plan_id: str
    kind: Kind
    gone: dict[str, Gone]


class RetentionApplied(Payload):
    """What was planned is gone."""

    TYPE: ClassVar = "agentos.retention.applied"
    plan_id: str
    kind: Kind
    before: str
    items: int
    commits: int
    events: int
    position: int
    archive: str = ""
    digest: str = ""
    gone: dict[str, Gone]


class RetentionOf(Aggregate):
    """One tenant's retention, from its last plan on."""

    KIND: ClassVar = KIND
    PAYLOADS: ClassVar = by_type(RetentionPlanned, RetentionBegun, RetentionApplied)

    def __init__(self, ref: StreamRef) -> None:
        super().__init__(ref)
        self.phase: Phase = "idle"
        self.plan: RetentionPlanned | None = None
        self.plan_position = 0
        self.gone: Mapping[str, Gone] = {}

    def take(self, records: Sequence[Recorded]) -> Self:
        """Fold commits of which the first may be any, as long as it stands by itself."""
        for record in records:
            if self.position == 0:
                self.sequence = record.first_sequence - 1
            self.fold([record])
            if self.phase == "planned":
                self.plan_position = record.position
        if self.phase == "begun" and self.plan is None:
            raise FoldError(f"{self.ref}: a plan was begun that was not read")
        return self

    def apply(self, event: Event) -> None:
        """Evolve by one event."""
        payload = event.payload
        if isinstance(payload, RetentionPlanned):
            self.phase, self.plan, self.gone = "planned", payload, payload.gone
        elif isinstance(payload, RetentionBegun):
            self.phase, self.gone = "begun", payload.gone
        elif isinstance(payload, RetentionApplied):
            self.phase, self.plan, self.gone = "idle", None, payload.gone

    def begin(self, at: Moment) -> list[Event]:
        """Decide that what was planned goes now."""
        plan = self._plan("planned")
        old = self.gone.get(plan.kind, Gone())
        furthest = max((old.position, old.line), (plan.position, plan.line))
        gone = Gone(
            position=furthest[0],
            line=furthest[1],
            items=old.items + plan.items,
            commits=old.commits + plan.commits,
            events=old.events + plan.events,
        )
        begun = RetentionBegun(
            plan_id=plan.plan_id, kind=plan.kind, gone={**self.gone, plan.kind: gone}
        )
        return [next_event(self, begun, at)]

    def finish(self, at: Moment) -> list[Event]:
        """Decide that what was begun is gone."""
        plan = self._plan("begun")
        applied = RetentionApplied(
            plan_id=plan.plan_id,
            kind=plan.kind,
            before=plan.before,
            items=plan.items,
            commits=plan.commits,
            events=plan.events,
            position=plan.position,
            archive=plan.archive.name if plan.archive else "",
            digest=plan.archive.digest if plan.archive else "",
            gone=dict(self.gone),
        )
        return [next_event(self, applied, at)]

    def _plan(self, phase: Phase) -> RetentionPlanned:
        if self.phase != phase or self.plan is None:
            raise FoldError(f"{self.ref}: it is {self.phase}, not {phase}")
        return self.plan


def plans_in(records: Sequence[Recorded]) -> list[RetentionPlanned]:
    """Return the plans among the commits of a tenant's retention, the oldest first."""
    events = (event for record in records for event in read_events(record, RetentionOf.PAYLOADS))
    return [event.payload for event in events if isinstance(event.payload, RetentionPlanned)]


def begun_plans(records: Sequence[Recorded]) -> list[RetentionPlanned]:
    """Return those of the plans whose streams may be gone."""
    plans = plans_in(records)
    if records and records[-1].types[-1] == RetentionPlanned.TYPE:
        return plans[:-1]
    return plans


def retention_ref(tenant_id: str) -> StreamRef:
    """Return where it stands what went of a tenant's log."""
    return StreamRef(tenant_id, KIND, "self")


def gone_of(last: Recorded | None, kind: Kind) -> Gone:
    """Return what is gone of a kind, as the last commit of a tenant's retention says."""
    if last is None:
        return Gone()
    ref = last.ref
    known = RetentionOf(ref)
    known.sequence = last.first_sequence - 1
    return known.fold([last]).gone.get(kind, Gone())


def require_seen(cursor: tuple[int, int], gone: Gone) -> None:
    """Raise `CursorExpiredError` when something went that a cursor has not seen.

    A cursor is a log position and a line in it. What went last lies at `gone`'s position, so
    something behind the cursor went exactly if that lies behind it.
    """
    if cursor < (gone.position, gone.line):
        raise CursorExpiredError(
            "events behind this cursor are not kept any more",
            first_sequence=1,
            resume_after=f"{gone.position}-{gone.line}",
        )
