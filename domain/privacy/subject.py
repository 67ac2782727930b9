"""A data subject of a tenant: which key seals its content now, and what of it was erased.

The person's id is in no event of it: the aggregate's id is a digest. Its keys count up: the key
of generation 1 is destroyed by the first erasure, and what comes after is sealed with the next.
"""

import hashlib
import re
from collections.abc import Mapping
from typing import Any, ClassVar, Final

from agentos.domain.aggregate import Aggregate, Moment, next_event
from agentos.domain.envelope import Event, Payload, by_type
from agentos.domain.run.events import RunCreated
from agentos.domain.subjects import StreamRef

SUBJECT_ID: Final = re.compile(r"^sub_[0-9a-f]{32}$")


class SubjectErased(Payload):
    """The key of this generation is destroyed: decided here, and made true from here on."""

    TYPE: ClassVar = "agentos.subject.erased"
    subject_id: str
    generation: int


class SubjectErasureCompleted(Payload):
    """The key is gone and nothing of the subject runs any more; `report` says what was reached."""

    TYPE: ClassVar = "agentos.subject.erasure_completed"
    subject_id: str
    generation: int
    report: dict[str, Any]


class DataSubject(Aggregate):
    """A data subject as its events tell it. `is_pending`: an erasure was decided, not completed."""

    KIND: ClassVar = "subject"
    PAYLOADS: ClassVar = by_type(SubjectErased, SubjectErasureCompleted)

    def __init__(self, ref: StreamRef) -> None:
        super().__init__(ref)
        self.generation = 1
        self.is_pending = False
        self.erased_at = 0
        self.report: dict[str, Any] = {}

    @property
    def key_id(self) -> str:
        """The key that seals what comes now."""
        return key_id_of(self.ref.aggregate_id, self.generation)

    def erased_keys(self) -> list[str]:
        """Return the keys that must not exist any more."""
        return [key_id_of(self.ref.aggregate_id, number) for number in range(1, self.generation)]

    def apply(self, event: Event) -> None:
        """Evolve by one event."""
        payload = event.payload
        if isinstance(payload, SubjectErased):
            self.generation = payload.generation + 1
            self.is_pending = True
            self.erased_at = event.time
        if isinstance(payload, SubjectErasureCompleted):
            self.is_pending = False
            self.report = payload.report

    def erase(self, at: Moment) -> list[Event]:
        """Decide that what is there is erased; one that is in hand is gone on with."""
        if self.is_pending:
            return []
        said = SubjectErased(subject_id=self.ref.aggregate_id, generation=self.generation)
        return [next_event(self, said, at)]

    def complete(self, report: dict[str, Any], at: Moment) -> list[Event]:
        """Write down that the erasure in hand is done; it stands once."""
        if not self.is_pending:
            return []
        said = SubjectErasureCompleted(
            subject_id=self.ref.aggregate_id, generation=self.generation - 1, report=report
        )
        return [next_event(self, said, at)]


def subject_of(created: RunCreated) -> str:
    """Return whose content a run holds: its `context.user_id`, else its principal's id."""
    return person_of(created.context, created.principal.principal_id)


def person_of(context: Mapping[str, Any], principal_id: str) -> str:
    """Return whom a run's context names, else who started it."""
    user_id = context.get("user_id")
    return user_id if isinstance(user_id, str) and user_id else principal_id


def subject_id_of(tenant_id: str, subject: str) -> str:
    """Return what stands for a person (or for itself: such an id is taken as it is)."""
    if SUBJECT_ID.match(subject):
        return subject
    return f"sub_{hashlib.sha256(f'{tenant_id}/{subject}'.encode()).hexdigest()[:32]}"


def key_id_of(subject_id: str, generation: int) -> str:
    """Return the name of a subject's key of a generation."""
    return f"{subject_id}-{generation}"


def subject_ref(tenant_id: str, subject_id: str) -> StreamRef:
    """Return where a data subject's own events are."""
    return StreamRef(tenant_id, DataSubject.KIND, subject_id)
