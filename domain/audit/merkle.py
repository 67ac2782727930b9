"""A Merkle tree over record hashes, as RFC 6962 builds it: one root, short proofs of membership."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

LEAF: Final = b"\x00"
NODE: Final = b"\x01"


@dataclass(frozen=True, slots=True)
class Path:
    """Where a leaf is (`index` of `size`), and the hashes beside its way up, from the leaf on."""

    index: int
    size: int
    hashes: tuple[str, ...]


def root(hashes: Iterable[str]) -> str:
    """Return the root over record hashes (hex), in their order; `ValueError` without any."""
    level = [_leaf(text) for text in hashes]
    if not level:
        raise ValueError("a tree needs a leaf")
    while len(level) > 1:
        level = _above(level)
    return level[0].hex()


def path(hashes: Sequence[str], index: int) -> Path:
    """Return the proof that the leaf at `index` is below the root of `hashes`."""
    level, at, beside = [_leaf(text) for text in hashes], index, list[str]()
    while len(level) > 1:
        sibling = at ^ 1
        if sibling < len(level):
            beside.append(level[sibling].hex())
        level, at = _above(level), at // 2
    return Path(index, len(hashes), tuple(beside))


def root_of(record_hash: str, proof: Path) -> str:
    """Return the root that the proof leads to; `ValueError` for a proof of the wrong length."""
    if not 0 <= proof.index < proof.size:
        raise ValueError("the leaf lies outside of its tree")
    node, at, width = _leaf(record_hash), proof.index, proof.size
    beside = iter(proof.hashes)
    while width > 1:
        if at ^ 1 < width:
            other = _exactly(next(beside, "?"))
            node = _node(other, node) if at & 1 else _node(node, other)
        at, width = at // 2, (width + 1) // 2
    if next(beside, None) is not None:
        raise ValueError("the proof is too long")
    return node.hex()


def _above(level: Sequence[bytes]) -> list[bytes]:
    pairs = [_node(level[at], level[at + 1]) for at in range(0, len(level) - 1, 2)]
    return pairs + ([level[-1]] if len(level) % 2 else [])


def _leaf(text: str) -> bytes:
    return hashlib.sha256(LEAF + _exactly(text)).digest()


def _exactly(text: str) -> bytes:
    """Return the bytes of a hash in hex, of which there is one spelling only."""
    found = bytes.fromhex(text)
    if found.hex() != text:
        raise ValueError("not a hash in lower-case hex")
    return found


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(NODE + left + right).digest()
