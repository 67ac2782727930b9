"""A commit as a message: its header block out, and back in."""

import re
from typing import Final

from agentos.domain.envelope import SCHEMA_VERSION
from agentos.domain.errors import InternalError
from agentos.domain.log import Commit, Lease, Recorded
from agentos.domain.subjects import log_ref

BREAK: Final = re.compile(r"[\x00-\x1f\x7f]")


def message_id(commit: Commit) -> str:
    """Return `<tenant>/<kind>/<id>:<first sequence>:<commit id>`, one writer's own for ever."""
    ref = commit.ref
    return (
        f"{ref.tenant_id}/{ref.kind}/{ref.aggregate_id}:{commit.first_sequence}:{commit.commit_id}"
    )


def encode_headers(commit: Commit, expected: int) -> bytes:
    """Return the header block of an append; empty fields are left out.

    `ValueError` for a value that would break out of its line.
    """
    head = (
        f"Nats-Expected-Last-Subject-Sequence: {expected}\r\n"
        f"Nats-Msg-Id: {message_id(commit)}\r\n"
        f"Agentos-First: {commit.first_sequence}\r\n"
        f"Agentos-Schema: {SCHEMA_VERSION}\r\n"
    )
    lines = [head]
    if commit.types:
        lines.append(f"Agentos-Types: {','.join(commit.types)}\r\n")
    if commit.command_id:
        lines.append(f"Agentos-Command: {_line(commit.command_id)}\r\n")
    if commit.causation_id:
        lines.append(f"Agentos-Causation: {_line(commit.causation_id)}\r\n")
    if commit.lease is not None:
        lease = commit.lease
        lines.append(f"Agentos-Lease: {_line(lease.worker_id)};{lease.deadline_ms}\r\n")
    if commit.base:
        lines.append(f"Agentos-Base: {commit.base}\r\n")
    if commit.priority:
        lines.append(f"Agentos-Priority: {_line(commit.priority)}\r\n")
    if commit.correlation_id:
        lines.append(f"Agentos-Correlation: {_line(commit.correlation_id)}\r\n")
    if commit.by_tenant:
        lines.append(f"Agentos-By: {_line(commit.by_tenant)}\r\n")
    if commit.sealed:
        lines.append(f"Agentos-Sealed: {_line(commit.sealed)}\r\n")
    if commit.waits_until:
        lines.append(f"Agentos-Waits: {commit.waits_until}\r\n")
    return f"NATS/1.0\r\n{''.join(lines)}\r\n".encode()


def _line(value: str) -> str:
    if BREAK.search(value):
        raise ValueError(f"not fit for a header: {value!r}")
    return value


def parse_headers(block: bytes) -> dict[str, str]:
    """Return the fields of a header block; the status line, if it has one, is passed over."""
    fields: dict[str, str] = {}
    for line in block.decode().split("\r\n")[1:-2]:
        name, _, value = line.partition(": ")
        fields[name] = value
    return fields


def decode(subject: str, position: int, fields: dict[str, str], body: bytes) -> Recorded:
    """Return the commit that a message of the log holds.

    Raises `InternalError` for a message that AgentOS did not write: never skipped in silence.
    """
    try:
        lease = fields.get("Agentos-Lease")
        types = fields.get("Agentos-Types")
        return Recorded(
            log_ref(subject),
            fields["Nats-Msg-Id"].rpartition(":")[2],
            int(fields["Agentos-First"]),
            tuple(types.split(",")) if types else (),
            body,
            fields.get("Agentos-Command", ""),
            fields.get("Agentos-Causation", ""),
            _lease(lease) if lease else None,
            int(fields.get("Agentos-Base", 0)),
            fields.get("Agentos-Priority", ""),
            fields.get("Agentos-Correlation", ""),
            fields.get("Agentos-By", ""),
            fields.get("Agentos-Sealed", ""),
            int(fields.get("Agentos-Waits", 0)),
            position=position,
        )
    except (KeyError, ValueError) as exc:
        raise InternalError(
            f"message {position} of the log was not written by AgentOS", subject=subject
        ) from exc


def _lease(text: str) -> Lease:
    worker_id, _, deadline = text.rpartition(";")
    return Lease(worker_id, int(deadline))
