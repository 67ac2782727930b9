"""A run that is executed elsewhere, as this node knows it: its events are copied, byte for byte."""

import re
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any, ClassVar, Final, Literal, NamedTuple

from pydantic import Field

from agentos.domain.aggregate import Aggregate, Moment, next_event
from agentos.domain.envelope import Event, Payload, by_type, fits_a_line, is_none, read_line
from agentos.domain.errors import ConflictError, NotFoundError
from agentos.domain.federation.view import final_status, fold_view, known_status, new_view
from agentos.domain.ids import FREE_ID_PATTERN
from agentos.domain.log import Recorded
from agentos.domain.run.events import FINAL_TYPES
from agentos.domain.subjects import StreamRef

KIND: Final = "remote"
KEPT_NOTES: Final = 20
FREE_ID: Final = re.compile(FREE_ID_PATTERN)


class RunLinked(Payload):
    """A peer executes a run for this node's tenant."""

    TYPE: ClassVar = "agentos.federation.run.linked"
    stack_id: str
    forward_id: str
    agent_id: str
    events_url: str
    status: str
    created_at: str
    run_options: dict[str, Any]
    labels: dict[str, str] | None = Field(default=None, exclude_if=is_none)
    correlation_id: str | None = Field(default=None, exclude_if=is_none)


class EventsCopied(Payload):
    """Events of the run, each line as the peer sent it; `first` to `last` are sequences."""

    TYPE: ClassVar = "agentos.federation.events.copied"
    stack_id: str
    first: int
    last: int
    lines: list[str]


class GapFound(Payload):
    """Events of these sequences are not to be had, now or (`expired`) ever again."""

    TYPE: ClassVar = "agentos.federation.gap.found"
    stack_id: str
    first: int
    last: int
    reason: Literal["skipped", "expired", "refused"]


class GapFilled(Payload):
    """What was missed in a cut of so many milliseconds was fetched."""

    TYPE: ClassVar = "agentos.federation.gap.filled"
    stack_id: str
    first: int
    last: int
    by: Literal["peer", "push"] = "peer"
    cut_ms: int


class RemoteEnded(Payload):
    """The copy is whole: the run's final event is in it."""

    TYPE: ClassVar = "agentos.federation.run.ended"
    stack_id: str
    status: str
    last: int


class Gap(NamedTuple):
    """Missing sequences, both ends included."""

    first: int
    last: int


class RemoteRun(Aggregate):
    """The copy of a run: `copied` is the sequence up to which it is here."""

    KIND: ClassVar = KIND
    PAYLOADS: ClassVar = by_type(RunLinked, EventsCopied, GapFound, GapFilled, RemoteEnded)
    linked: RunLinked

    def __init__(self, ref: StreamRef) -> None:
        super().__init__(ref)
        self.view_state: dict[str, Any] | None = None
        self.copied = 0
        self.last_event_id = ""
        self.has_ended = False
        self.gaps: list[Gap] = []

    def apply(self, event: Event) -> None:
        """Evolve by one event."""
        match event.payload:
            case RunLinked() as linked:
                self.linked = linked
                self.view_state = new_view(
                    self.ref.tenant_id, self.ref.aggregate_id, linked.model_dump(mode="json")
                )
            case EventsCopied() as copied:
                self._take(copied)
            case GapFound() as gap:
                if gap.reason == "expired":
                    self.copied = max(self.copied, gap.last)
                self.gaps = [*self.gaps, Gap(gap.first, gap.last)][-KEPT_NOTES:]
            case GapFilled() as filled:
                self.gaps = [
                    gap for gap in self.gaps if not filled.first <= gap.first <= filled.last
                ]
            case RemoteEnded() as end:
                self.has_ended = True
                if self.view_state is not None:  # the event that says so may not be in the copy
                    self.view_state["status"] = known_status(end.status)

    def _take(self, copied: EventsCopied) -> None:
        for line in copied.lines:
            inner = read_line(line.encode())
            if self.view_state is not None:
                fold_view(self.view_state, inner)
            self.last_event_id = str(inner["event_id"])
        self.copied = copied.last

    def link(self, linked: RunLinked, at: Moment) -> list[Event]:
        """Begin the copy; nothing when it has begun. `ConflictError` when it is another's."""
        if self.view_state is None:
            return [next_event(self, linked, at)]
        if (self.linked.stack_id, self.linked.forward_id) != (linked.stack_id, linked.forward_id):
            raise ConflictError("another peer's run has this id", stack_id=self.linked.stack_id)
        return []

    def copy(
        self,
        lines: Sequence[bytes],
        at: Moment,
        *,
        filled_by: Literal["peer", "push"] | None = None,
        cut_ms: int = 0,
    ) -> list[Event]:
        """Take what continues the copy; what is there is passed over.

        `filled_by` says that a cut was before it. Raises `NotFoundError` before the copy has
        begun, `ConflictError` for a line that is not the event that it must be: another
        tenant's, another run's, one that leaves a gap, or none at all.
        """
        if self.view_state is None:
            raise NotFoundError("no such remote run")
        fresh = self._fresh(lines)
        if not fresh or self.has_ended:
            return []
        self._require_folds([inner for _, inner in fresh])
        stack_id, first, last = self.linked.stack_id, self.copied + 1, self.copied + len(fresh)
        texts = [line.decode() for line, _ in fresh]
        staged: list[Payload] = [
            EventsCopied(stack_id=stack_id, first=first, last=last, lines=texts)
        ]
        if filled_by is not None:
            staged.append(
                GapFilled(stack_id=stack_id, first=first, last=last, by=filled_by, cut_ms=cut_ms)
            )
        final = fresh[-1][1]
        if final["type"] in FINAL_TYPES:
            staged.append(RemoteEnded(stack_id=stack_id, status=final_status(final), last=last))
        return self._events(staged, at)

    def _require_folds(self, events: Sequence[dict[str, Any]]) -> None:
        """Raise `ConflictError` for events that no reader of the copy could fold.

        Once they were written they would stop every one of them, at every start.
        """
        tried = deepcopy(self.view_state) or {}
        try:
            for inner in events:
                fold_view(tried, inner)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as exc:
            raise ConflictError("the peer sent what does not fold") from exc

    def miss(
        self,
        last: int,
        reason: Literal["skipped", "expired", "refused"],
        at: Moment,
        *,
        ended: str | None = None,
    ) -> list[Event]:
        """Note that what follows the copy, up to `last`, cannot be had; once for each gap.

        `ended` is how the run ended, where its last event is among what is missing.
        """
        if self.view_state is None:
            raise NotFoundError("no such remote run")
        gap = Gap(self.copied + 1, last)
        if last <= self.copied or gap in self.gaps or self.has_ended:
            return []
        found = GapFound(
            stack_id=self.linked.stack_id, first=gap.first, last=gap.last, reason=reason
        )
        staged: list[Payload] = [found]
        if ended is not None:
            staged.append(RemoteEnded(stack_id=self.linked.stack_id, status=ended, last=last))
        return self._events(staged, at)

    def _events(self, payloads: Sequence[Payload], at: Moment) -> list[Event]:
        return [
            replace(next_event(self, payload, at), sequence=self.sequence + 1 + offset)
            for offset, payload in enumerate(payloads)
        ]

    def _fresh(self, lines: Sequence[bytes]) -> list[tuple[bytes, dict[str, Any]]]:
        found: list[tuple[bytes, dict[str, Any]]] = []
        expected = self.copied + 1
        for line in lines:
            inner = checked_line(line, self.ref.tenant_id, self.ref.aggregate_id)
            if inner["sequence"] < expected:
                continue
            if inner["sequence"] > expected:
                raise ConflictError(
                    "events are missing", first=expected, last=inner["sequence"] - 1
                )
            found.append((line, inner))
            expected += 1
            if inner["type"] in FINAL_TYPES:
                break
        return found

    def view(self) -> dict[str, Any]:
        """Return the contract's `Run` object with its `remote` part."""
        if self.view_state is None:
            raise NotFoundError("no such run")
        return self.view_state


def checked_line(line: bytes, tenant_id: str, run_id: str | None) -> dict[str, Any]:
    """Return the event of a line that came from elsewhere.

    Raises `ConflictError` unless it is a whole envelope of that very run and tenant.
    """
    try:
        inner = read_line(line)
        fits_a_line(inner)
        whole = (
            b"\n" not in line
            and isinstance(inner["type"], str)
            and isinstance(inner["payload"], dict)
            and isinstance(inner["time"], str)
            and type(inner["sequence"]) is int  # a boolean is none
            and 1 <= inner["sequence"] < 2**63
            and FREE_ID.match(inner["event_id"]) is not None
        )
    except (ValueError, KeyError, TypeError, UnicodeDecodeError) as exc:
        raise ConflictError("the peer sent something that is no event") from exc
    if not whole:
        raise ConflictError("the peer sent something that is no event")
    if inner["tenant_id"] != tenant_id or inner.get("run_id") != run_id:
        raise ConflictError("the peer sent an event of another tenant or run")
    return inner


def copied_lines(records: Sequence[Recorded], after_sequence: int = 0) -> list[tuple[int, bytes]]:
    """Return the copied events behind a sequence, with their sequences, in order."""
    found: list[tuple[int, bytes]] = []
    for record in records:
        for kind, line in zip(record.types, record.lines(), strict=True):
            if kind == EventsCopied.TYPE:
                payload = read_line(line)["payload"]
                found += [
                    (payload["first"] + at, text.encode())
                    for at, text in enumerate(payload["lines"])
                    if payload["first"] + at > after_sequence
                ]
    return found


def remote_ref(tenant_id: str, run_id: str) -> StreamRef:
    """Return the stream of a remote run's copy."""
    return StreamRef(tenant_id, KIND, run_id)
