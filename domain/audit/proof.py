"""Proof that one record is in a chain: the record, its way up to a signed root, the key."""

from collections.abc import Mapping, Sequence
from typing import Any

from agentos.domain.audit.chain import chain_hash
from agentos.domain.audit.checkpoint import Verify, statement
from agentos.domain.audit.merkle import Path, path, root_of


def make_proof(
    record: Mapping[str, Any],
    hashes: Sequence[str],
    checkpoint: Mapping[str, Any],
    public_key: str,
) -> dict[str, Any]:
    """Return the proof of a record; `hashes` are those of all records that `checkpoint` covers."""
    way = path(hashes, record["sequence"] - checkpoint["first"])
    return {
        "record": dict(record),
        "path": {"index": way.index, "size": way.size, "hashes": list(way.hashes)},
        "checkpoint": dict(checkpoint),
        "public_key": public_key,
    }


def fault_of(proof: Mapping[str, Any], verify: Verify, trusted: str | None = None) -> str | None:
    """Return why a proof does not hold, `None` when it does.

    With `trusted` only that public key (hex) will do: what a reviewer has noted down elsewhere.
    """
    try:
        return _fault(proof, verify, trusted)
    except (KeyError, TypeError, ValueError, AttributeError):
        return "no proof"


def _fault(proof: Mapping[str, Any], verify: Verify, trusted: str | None) -> str | None:
    record, checkpoint, way = proof["record"], proof["checkpoint"], proof["path"]
    key = proof["public_key"]
    if trusted is not None and key != trusted:
        return "it is signed with another key than the trusted one"
    if chain_hash(record) != record["hash"]:
        return "the record's content is not what its hash covers"
    if record["tenant_id"] != checkpoint["tenant_id"]:
        return "the checkpoint is another tenant's"
    covers = checkpoint["sequence"] - checkpoint["first"] + 1
    if way["size"] != covers or record["sequence"] != checkpoint["first"] + way["index"]:
        return "the record's place is not the one that the checkpoint has"
    proven = Path(way["index"], way["size"], tuple(way["hashes"]))
    if root_of(record["hash"], proven) != checkpoint["root"]:
        return "the way does not lead to the checkpoint's root"
    if not verify(key, statement(checkpoint), checkpoint["signature"]):
        return "the checkpoint's signature does not hold"
    return None
