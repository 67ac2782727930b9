"""Chains where they are: in a node's log, or in an export and the checkpoints beside it."""

import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from string import hexdigits
from typing import Any, Final

from pydantic_core import from_json

from agentos.domain.audit.checkpoint import AuditKeys, keys_ref
from agentos.domain.audit.verification import ChainVerifier, verify_lines
from agentos.domain.ports import EventLog
from agentos.infra.signing import is_signed, key_id_of

BESIDE: Final = ".checkpoints"
KEY_DIGITS: Final = 64


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


def trusted(keys: Sequence[str]) -> dict[str, str]:
    """Return public keys in hex by their ids; `ValueError` for what is none."""
    found = {}
    for key in map(str.lower, keys):
        if len(key) != KEY_DIGITS or not set(key) <= set(hexdigits):
            raise ValueError(f"{key} is no Ed25519 public key in hex: see `agentos audit key`")
        found[key_id_of(key)] = key
    return found


async def verify_log(
    log: EventLog, tenant_id: str, only: Mapping[str, str] | None = None
) -> ChainVerifier:
    """Check a tenant's chain as the log has it, by the log's own keys, or by `only` those."""
    keys = await keys_of(log) if only is None else only
    verifier = ChainVerifier(tenant_id, keys, is_signed)
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


def verify_file(path: Path, only: Mapping[str, str] | None = None) -> ChainVerifier:
    """Check an export with the checkpoints beside it, `FILE.checkpoints`; no node is needed.

    Who could write the file could write the keys in it: `only` are those that are trusted.

    Raises `OSError`, `ValueError` for a file beside it that is none.
    """
    beside = Path(f"{path}{BESIDE}")
    keys = only
    if keys is None:
        keys = _keys_in(beside) if beside.exists() else {}
    with path.open("rb") as file:
        verifier = ChainVerifier(_tenant_of(path), keys, is_signed)
        signed = (_member(s, "checkpoint", beside) for s in _objects(beside) if "checkpoint" in s)
        lines = (line.removesuffix(b"\n") for line in file)
        return verify_lines(verifier, lines, signed if beside.exists() else ())


def _keys_in(path: Path) -> dict[str, str]:
    said = [_member(said, "keys", path) for said in _objects(path) if "keys" in said]
    return {key_id: str(key) for keys in said for key_id, key in keys.items()}


def _member(said: Mapping[str, Any], name: str, path: Path) -> dict[str, Any]:
    found = said[name]
    if not isinstance(found, dict):
        raise ValueError(f"{path} is no file of checkpoints: a member {name!r} is no object")
    return found


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
