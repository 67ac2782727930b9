"""The node's signing key (Ed25519), and what its signatures are checked with."""

import base64
import hashlib
import os
from contextlib import suppress
from pathlib import Path
from secrets import token_hex
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

FILE: Final = "capsule_key"


class Signer:
    """Signs as one node. `public_key` is in base64."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public_key = base64.b64encode(key.public_key().public_bytes_raw()).decode()

    def sign(self, content: bytes) -> bytes:
        """Return the signature of some bytes, in base64."""
        return base64.b64encode(self._key.sign(content))


def node_signer(data_dir: Path) -> Signer:
    """Return the signer of the node in a data directory; its key is made when first asked for."""
    path = data_dir / FILE
    if not path.exists():
        data_dir.mkdir(parents=True, exist_ok=True)
        _make(path)
    return Signer(Ed25519PrivateKey.from_private_bytes(path.read_bytes()))


def _make(path: Path) -> None:
    """Put a new key in its place, whole or not at all; of two at once the first one stays."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.{token_hex(4)}")
    try:
        with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(Ed25519PrivateKey.generate().private_bytes_raw())
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def known_key(data_dir: Path) -> str | None:
    """Return the public key of the node in a data directory, if it has signed anything."""
    return node_signer(data_dir).public_key if (data_dir / FILE).exists() else None


def holds(public_key: str, content: bytes, signature: bytes) -> bool:
    """Whether a signature is that of the key over the bytes; `False` for what is neither."""
    try:
        key = Ed25519PublicKey.from_public_bytes(base64.b64decode(public_key, validate=True))
        key.verify(base64.b64decode(signature, validate=True), content)
    except (InvalidSignature, ValueError):
        return False
    return True


def fingerprint(public_key: str) -> str:
    """Return the short form of a public key that people compare."""
    return hashlib.sha256(public_key.encode()).hexdigest()[:32]
