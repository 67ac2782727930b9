"""One tenant's chain of audit records."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Final, Literal, Self

from pydantic import Field

from agentos.domain.aggregate import Aggregate, Moment, next_event
from agentos.domain.audit.canonical import canonical
from agentos.domain.auth import SYSTEM_PRINCIPAL, Principal
from agentos.domain.envelope import NO_TRACE, Event, Payload, Trace, by_type, is_none
from agentos.domain.ids import derived_id
from agentos.domain.log import Recorded
from agentos.domain.subjects import StreamRef
from agentos.domain.times import rfc3339

NO_HASH: Final = "0" * 64
NODE_TENANT: Final = "tnt_node"
Outcome = Literal["allowed", "denied", "error"]
Meta = Mapping[str, int | str | bool | None]


class AuditRecorded(Payload):
    """One record; `hash` covers everything else in it, `prev_hash` the record before."""

    TYPE: ClassVar = "agentos.audit.recorded"
    audit_id: str
    sequence: int
    time: str
    tenant_id: str
    principal: dict[str, Any]
    action: str
    resource: str
    outcome: Outcome
    reason: str | None = Field(default=None, exclude_if=is_none)
    cause: str
    correlation_id: str
    request_id: str
    run_id: str | None = Field(default=None, exclude_if=is_none)
    policy_context: dict[str, Any] | None = Field(default=None, exclude_if=is_none)
    meta: dict[str, Any]
    prev_hash: str
    hash: str


@dataclass(frozen=True, slots=True)
class Entry:
    """What is to be recorded: ids, counts and decisions; never a secret, body or output.

    `cause` is the id of the event (or request) that the record is about: the record's own id
    follows from it. `meta` holds texts, integers, true, false and null: nothing nested.
    """

    principal: Principal
    action: str
    resource: str
    outcome: Outcome
    cause: str
    correlation_id: str = ""
    request_id: str = ""
    reason: str | None = None
    run_id: str | None = None
    policy_context: Mapping[str, Any] | None = None
    meta: Meta = field(default_factory=dict)


class AuditChain(Aggregate):
    """The end of a chain: all that the next record depends on.

    `covered` is the log position up to which the tenant's causes have their records here: the
    base of its last commit, which everybody who appends passes on.
    """

    KIND: ClassVar = "audit"
    PAYLOADS: ClassVar = by_type(AuditRecorded)

    def __init__(self, ref: StreamRef) -> None:
        super().__init__(ref)
        self.hash = NO_HASH
        self.audit_id = ""
        self.covered = 0

    def fold(self, records: Iterable[Recorded]) -> Self:
        """Fold commits; the first may stand anywhere in the chain, for only its end counts."""
        for record in records:
            if self.position == 0:
                self.sequence = record.first_sequence - 1
            super().fold([record])
            self.covered = max(self.covered, record.base)
        return self

    def apply(self, event: Event) -> None:
        """Evolve by one event."""
        if isinstance(payload := event.payload, AuditRecorded):
            self.hash = payload.hash
            self.audit_id = payload.audit_id

    def record(self, entries: Iterable[Entry], at: Moment) -> list[Event]:
        """Return the events that append `entries` to the chain, in their order."""
        events: list[Event] = []
        for entry in entries:
            event = self._event(self._recorded(entry, at), at)
            self.evolve(event)
            events.append(event)
        return events

    def _event(self, payload: AuditRecorded, at: Moment) -> Event:
        """Return the record's event; all of it follows from the record, so that all is checked."""
        event = next_event(self, payload, at, trace=Trace(NO_TRACE, NO_TRACE[36:52]))
        event_id = record_event_id(payload.audit_id)
        return replace(event, event_id=event_id, principal=SYSTEM_PRINCIPAL)

    def _recorded(self, entry: Entry, at: Moment) -> AuditRecorded:
        record: dict[str, Any] = {
            "audit_id": audit_id(entry),
            "sequence": self.sequence + 1,
            "time": rfc3339(self.later(at.now_ms)),
            "tenant_id": self.ref.tenant_id,
            "principal": entry.principal.model_dump(),
            "action": entry.action,
            "resource": entry.resource,
            "outcome": entry.outcome,
            "cause": entry.cause,
            "correlation_id": entry.correlation_id,
            "request_id": entry.request_id,
            "meta": dict(entry.meta),
            "prev_hash": self.hash,
        }
        if entry.reason is not None:
            record["reason"] = entry.reason
        if entry.run_id is not None:
            record["run_id"] = entry.run_id
        if entry.policy_context is not None:
            record["policy_context"] = dict(entry.policy_context)
        return AuditRecorded(**record, hash=chain_hash(record))


def audit_id(entry: Entry) -> str:
    """Return the id that follows from what the record is about."""
    return derived_id("aud", entry.cause, entry.action, entry.outcome)


def record_event_id(of_audit_id: str) -> str:
    """Return the id of the event that a record is."""
    return f"evt_{of_audit_id.removeprefix('aud_')}"


def chain_hash(record: Mapping[str, Any]) -> str:
    """Return sha256(prev_hash || canonical JSON of the record without `hash`), in hex.

    Raises `ValueError` for what no record holds: fractions, numbers beyond 2^53.
    """
    body = {name: value for name, value in record.items() if name != "hash"}
    return hashlib.sha256(str(record["prev_hash"]).encode() + canonical(body)).hexdigest()


def chain_ref(tenant_id: str) -> StreamRef:
    """Return where a tenant's audit records are."""
    return StreamRef(tenant_id, AuditChain.KIND, "chain")
