"""Chains where they are: in a node's log, or in an export and the checkpoints beside it."""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any, Final

from pydantic_core import from_json

from agentos.domain.audit.checkpoint import AuditKeys, keys_ref
from agentos.domain.audit.verification import ChainVerifier, verify_lines
from agentos.domain.ports import EventLog
from agentos.infra.signing import is_signed

BESIDE: Final = ".checkpoints"


async def keys_of(log: EventLog) -> dict[str, str]:
    """Return the node's public keys by their ids."""
    return AuditKeys(keys_ref()).fold(await log.read(keys_ref())).keys


async def chain_lines(log: EventLog, tenant_id: str) -> AsyncIterator[tuple[bool, bytes]]:
    """Yield a tenant's records and checkpoints in the log's order: whether a record, the line."""
    tail = log.tail(after=0, kinds=("audit",), tenant_id=tenant_id)
    async with aclosing(tail):  # type: ignore[type-var]  # an async generator
        async for batch in tail:
            for record in batch.records:
                aggregate = record.ref.aggregate_id
                if aggregate in ("chain", "checkpoints"):
                    for line in record.lines():
                        yield aggregate == "chain", line
            if batch.caught_up:
                return


async def verify_log(log: EventLog, tenant_id: str) -> ChainVerifier:
    """Check a tenant's chain as the log has it."""
    verifier = ChainVerifier(tenant_id, await keys_of(log), is_signed)
    async for is_record, line in chain_lines(log, tenant_id):
        if is_record:
            verifier.log_line(line)
        else:
            verifier.checkpoint(_payload(line))
    return verifier


def _payload(line: bytes) -> dict[str, Any]:
    try:
        found = from_json(line)["event"]["payload"]
    except (ValueError, KeyError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def verify_file(path: Path) -> ChainVerifier:
    """Check an export with the checkpoints beside it, `FILE.checkpoints`; no node is needed.

    Raises `OSError`, `ValueError` for a file beside it that is none.
    """
    keys: dict[str, str] = {}
    beside = Path(f"{path}{BESIDE}")
    if beside.exists():
        keys = {n: k for said in _objects(beside) for n, k in said.get("keys", {}).items()}
    with path.open("rb") as file:
        verifier = ChainVerifier(_tenant_of(path), keys, is_signed)
        signed = (s["checkpoint"] for s in _objects(beside) if "checkpoint" in s)
        lines = (line.removesuffix(b"\n") for line in file)
        return verify_lines(verifier, lines, signed if beside.exists() else ())


def _objects(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        for line in file:
            found = json.loads(line)
            if not isinstance(found, dict):
                raise ValueError(f"{path} is no file of checkpoints")
            yield found


def _tenant_of(path: Path) -> str:
    """Return whose chain it is: as the checkpoints beside it say, else as its first record does."""
    beside = Path(f"{path}{BESIDE}")
    if beside.exists():
        for said in _objects(beside):
            if "tenant_id" in said:
                return str(said["tenant_id"])
    with path.open("rb") as file:
        try:
            return str(json.loads(file.readline())["tenant_id"])
        except (ValueError, KeyError, TypeError):
            return ""
