"""Whether a chain is what it was: each record, its place, and the checkpoints over it."""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic_core import from_json, to_json

from agentos.domain.audit.canonical import canonical
from agentos.domain.audit.chain import NO_HASH, AuditRecorded, record_event_id
from agentos.domain.audit.checkpoint import Verify, statement
from agentos.domain.audit.merkle import root
from agentos.domain.auth import SYSTEM_PRINCIPAL
from agentos.domain.envelope import NO_TRACE

TEXTS: Final = ("audit_id", "tenant_id", "prev_hash", "hash")
SYSTEM: Final = SYSTEM_PRINCIPAL.model_dump()
TRACE: Final = {"traceparent": NO_TRACE, "span_id": NO_TRACE[36:52]}


Reader = Callable[[bytes], tuple[dict[str, Any], bytes]]


class BadChainError(Exception):
    """What does not fit, in a sentence."""


@dataclass(frozen=True, slots=True)
class FirstBad:
    """The first record that is not as it was written; `sequence` is the one expected there."""

    sequence: int
    audit_id: str | None
    reason: str

    def view(self) -> dict[str, Any]:
        """Return it as the commands print it."""
        return {"sequence": self.sequence, "audit_id": self.audit_id, "reason": self.reason}


class ChainVerifier:
    """Takes the records of one chain in their order, and its checkpoints as they come.

    It holds the hashes since the last checkpoint only, however long the chain is. Behind the
    first bad record it only counts.
    """

    def __init__(self, tenant_id: str, keys: Mapping[str, str], verify: Verify) -> None:
        self.tenant_id = tenant_id
        self.records = 0
        self.checkpoints = 0
        self.first_bad: FirstBad | None = None
        self.signed_by: dict[str, None] = {}
        self._keys = keys
        self._verify = verify
        self._hash = NO_HASH
        self._hashes: list[str] = []
        self._covered = 0

    def export_line(self, line: bytes) -> None:
        """Take in the next record as an export has it: canonical JSON."""
        self._take(line, _from_export)

    def log_line(self, line: bytes) -> None:
        """Take in the next record as the log has it: an event."""
        self._take(line, _from_log)

    def _take(self, line: bytes, read: Reader) -> None:
        self.records += 1
        if self.first_bad is not None:
            return
        record: dict[str, Any] = {}
        try:
            record, body = read(line)
            self._check(record, body)
        except (BadChainError, ValueError, TypeError, KeyError) as exc:
            reason = str(exc) if isinstance(exc, BadChainError) else "no audit record"
            found = record.get("audit_id")
            self._bad(self.records, found if isinstance(found, str) else None, reason)

    def _check(self, record: dict[str, Any], body: bytes) -> None:
        expected, found = self.records, record["sequence"]
        if found != expected or type(found) is not int:
            raise BadChainError(f"sequence {found} stands where {expected} should")
        if record["tenant_id"] != self.tenant_id:
            raise BadChainError(f"it is of the tenant {record['tenant_id']}")
        if record["prev_hash"] != self._hash:
            raise BadChainError("it does not follow the record before: prev_hash differs")
        if _hash_of(record, body) != record["hash"]:
            raise BadChainError("its content is not what its hash covers")
        self._hash = record["hash"]
        self._hashes.append(self._hash)

    def checkpoint(self, checkpoint: Mapping[str, Any]) -> None:
        """Take in a checkpoint once the records that it covers were taken in, or their end."""
        if self.first_bad is not None:
            return
        try:
            self._check_checkpoint(checkpoint)
        except BadChainError as exc:
            self._bad(self._covered + 1, None, str(exc))
        except (ValueError, TypeError, KeyError):
            self._bad(self._covered + 1, None, "no checkpoint")

    def _check_checkpoint(self, checkpoint: Mapping[str, Any]) -> None:
        first, last = checkpoint["first"], checkpoint["sequence"]
        name = f"the checkpoint of {first} to {last}"
        if checkpoint["tenant_id"] != self.tenant_id or first != self._covered + 1 or last < first:
            raise BadChainError(f"{name} does not follow the one before")
        key = self._keys.get(checkpoint["key_id"])
        if key is None:
            raise BadChainError(f"{name} names an unknown key, {checkpoint['key_id']}")
        if not self._verify(key, statement(checkpoint), checkpoint["signature"]):
            raise BadChainError(f"the signature of {name} does not hold")
        if last > self.records:
            self._bad(self.records + 1, None, f"the end was cut: {name} covers more")
            return
        covered, self._hashes = self._hashes[: last - first + 1], self._hashes[last - first + 1 :]
        if covered[-1] != checkpoint["hash"] or root(covered) != checkpoint["root"]:
            raise BadChainError(f"{name} covers other records")
        self._covered = last
        self.checkpoints += 1
        self.signed_by[checkpoint["key_id"]] = None

    def _bad(self, sequence: int, audit_id: str | None, reason: str) -> None:
        self.first_bad = FirstBad(sequence, audit_id, reason)

    @property
    def covered(self) -> int:
        """The sequence of the last record that a signed checkpoint covers."""
        return self._covered

    def view(self) -> dict[str, Any]:
        """Return the verdict as the commands print it."""
        bad = self.first_bad
        return {
            "tenant_id": self.tenant_id,
            "records": self.records,
            "ok": bad is None,
            "first_bad": None if bad is None else bad.view(),
            "checkpoints": self.checkpoints,
            "signed_to": self._covered,
            "keys": list(self.signed_by),
        }


def _from_export(line: bytes) -> tuple[dict[str, Any], bytes]:
    """Return a record and its canonical bytes, which the line must be."""
    record = _record(from_json(line))
    body = canonical(record)
    if body != line:
        raise BadChainError("it is not written as an export writes it")
    return record, body


def _from_log(line: bytes) -> tuple[dict[str, Any], bytes]:
    """Return a record and its canonical bytes; its event must be the one that follows from it."""
    event = from_json(line)
    record = _record(event["event"]["payload"])
    if event != {"event": _envelope(record)} or to_json(event) != line:
        raise BadChainError("its event is not the one that follows from the record")
    return record, canonical(record)


def _record(found: Any) -> dict[str, Any]:
    if not isinstance(found, dict) or not all(isinstance(found.get(t), str) for t in TEXTS):
        raise BadChainError("no audit record")
    return found


def _envelope(record: dict[str, Any]) -> dict[str, Any]:
    return {
        "event_id": record_event_id(record["audit_id"]),
        "sequence": record["sequence"],
        "time": record["time"],
        "type": AuditRecorded.TYPE,
        "tenant_id": record["tenant_id"],
        "principal": SYSTEM,
        "trace": TRACE,
        "payload": record,
    }


def _hash_of(record: Mapping[str, Any], body: bytes) -> str:
    """Return the hash that a record's canonical bytes give.

    The member is cut out where it stands first: the keys before it hold texts, and in a text a
    quote is escaped, so nothing else can look like it.
    """
    member = b'"hash":"' + str(record["hash"]).encode() + b'",'
    return hashlib.sha256(
        str(record["prev_hash"]).encode() + body.replace(member, b"", 1)
    ).hexdigest()


def export_line_of(log_line: bytes) -> bytes:
    """Return an event of the log as an export has it: its record in canonical JSON."""
    return canonical(from_json(log_line)["event"]["payload"])


def verify_lines(
    verifier: ChainVerifier, lines: Iterable[bytes], checkpoints: Iterable[Mapping[str, Any]]
) -> ChainVerifier:
    """Check an export: its records, and beside them its checkpoints in their order."""
    waiting = iter(checkpoints)
    due = next(waiting, None)
    for line in lines:
        verifier.export_line(line)
        while due is not None and due.get("sequence") == verifier.records:
            verifier.checkpoint(due)
            due = next(waiting, None)
    while due is not None and verifier.first_bad is None:
        verifier.checkpoint(due)
        due = next(waiting, None)
    return verifier
