"""A log in a file: each commit as one line of JSON, and what proves that none is missing.

A file is a head, chunks of commits, and an end. Each chunk closes with its number of commits and
a chain digest over everything before it; so a chunk that is damaged, missing or out of place is
named, and a file that was broken off can be gone on with behind its last whole chunk.
"""

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, Final

from pydantic_core import from_json, to_json

from agentos.domain.audit.checkpoint import CHECKPOINTS, AuditCheckpoints
from agentos.domain.log import Commit, Lease, Recorded
from agentos.domain.subjects import StreamRef

FORMAT: Final = "agentos-log"
VERSION: Final = 1
NO_CHAIN: Final = "0" * 64
HEADERS: Final = (
    "command_id", "causation_id", "base", "priority", "correlation_id", "by_tenant", "sealed",
    "waits_until",
)  # fmt: skip
"""What a line has of a commit only where it says something."""


class ArchiveError(Exception):
    """The file is no whole archive; the message says where it is not."""


def to_entry(record: Recorded) -> bytes:
    """Return a commit as one line, without the newline: of one that was opened, as it is stored."""
    entry: dict[str, Any] = {
        "position": record.position,
        "tenant_id": record.ref.tenant_id,
        "kind": record.ref.kind,
        "id": record.ref.aggregate_id,
        "commit_id": record.commit_id,
        "first": record.first_sequence,
        "types": record.types,
        "body": (record.body if record.stored is None else record.stored).decode(),
    }
    for name in HEADERS:
        if value := getattr(record, name):
            entry[name] = value
    if record.lease is not None:
        entry["lease"] = [record.lease.worker_id, record.lease.deadline_ms]
    return to_json(entry)


def from_entry(line: bytes) -> Recorded:
    """Return the commit of a line; `ArchiveError` when it is none."""
    try:
        entry = from_json(line)
        lease = entry.get("lease")
        return Recorded(
            ref=StreamRef(entry["tenant_id"], entry["kind"], entry["id"]),
            commit_id=entry["commit_id"],
            first_sequence=int(entry["first"]),
            types=tuple(entry["types"]),
            body=entry["body"].encode(),
            command_id=entry.get("command_id", ""),
            causation_id=entry.get("causation_id", ""),
            lease=None if lease is None else Lease(lease[0], int(lease[1])),
            base=int(entry.get("base", 0)),
            priority=entry.get("priority", ""),
            correlation_id=entry.get("correlation_id", ""),
            by_tenant=entry.get("by_tenant", ""),
            sealed=entry.get("sealed", ""),
            waits_until=int(entry.get("waits_until", 0)),
            position=int(entry["position"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise ArchiveError("a line of the archive is no commit") from exc


class Digest:
    """The digest of a log's content, whatever its positions: equal for equal logs."""

    def __init__(self, value: str = NO_CHAIN) -> None:
        self.value = value
        self.records = 0

    def add(self, records: Sequence[Recorded]) -> None:
        """Take in what comes next."""
        digest = hashlib.sha256(self.value.encode())
        for record in records:
            ref = record.ref
            head = f"{ref.tenant_id}/{ref.kind}/{ref.aggregate_id} {record.first_sequence} "
            digest.update(hashlib.sha256(head.encode() + record.body).digest())
        self.value = digest.hexdigest()
        self.records += len(records)


class Places:
    """Where commits stand in the log that they were put into, by where they stood before.

    The new log begins behind position `start`.
    """

    def __init__(self, start: int = 0) -> None:
        self._start = start
        self._old: list[int] = []
        self._last: dict[StreamRef, int] = {}

    @property
    def count(self) -> int:
        """How many commits were placed."""
        return len(self._old)

    @property
    def position(self) -> int:
        """The position of the last one."""
        return self._start + len(self._old)

    def place(self, record: Recorded) -> tuple[Commit, int]:
        """Return the commit as it is to be written, and the position that it expects.

        A position that it names (of a balance, of a cause) is the new one of what stood there.
        """
        expected = self._last.get(record.ref, 0)
        self._old.append(record.position)
        self._last[record.ref] = self.position
        values = {field.name: getattr(record, field.name) for field in fields(Commit)}
        values["base"] = self._at(record.base) if record.base else 0
        if is_signature(record) and record.causation_id:
            values["causation_id"] = str(self._at(int(record.causation_id)))
        return Commit(**values), expected

    def _at(self, old: int) -> int:
        return self._start + bisect_right(self._old, old)


def is_signature(record: Commit) -> bool:
    """Whether it is a checkpoint, whose cause is the position of the last record under it."""
    return record.ref.kind == AuditCheckpoints.KIND and record.ref.aggregate_id == CHECKPOINTS
