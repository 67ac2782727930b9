"""Ed25519: the node's signing key, and how signatures are checked."""

import hashlib
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from agentos.infra.node.files import write_whole


class BadKeyError(ValueError):
    """The text is no Ed25519 private key in PEM (PKCS 8); it is not shown."""


class Ed25519Signer:
    """A private key that signs; neither it nor its text is ever printed."""

    def __init__(self, pem: str) -> None:
        try:
            key = serialization.load_pem_private_key(pem.encode(), password=None)
        except (ValueError, TypeError) as exc:
            raise BadKeyError("not an Ed25519 private key in PEM without a password") from exc
        if not isinstance(key, Ed25519PrivateKey):
            raise BadKeyError("a private key, but not an Ed25519 one")
        self._key = key
        self.public_key = key.public_key().public_bytes_raw().hex()
        self.key_id = key_id_of(self.public_key)

    def sign(self, message: bytes) -> str:
        """Return the signature of a message, in hex."""
        return self._key.sign(message).hex()


def key_id_of(public_key: str) -> str:
    """Return the name of a key: the first bytes of its digest."""
    return f"kid_{hashlib.sha256(bytes.fromhex(public_key)).hexdigest()[:32]}"


def is_signed(public_key: str, message: bytes, signature: str) -> bool:
    """Whether the signature is that key's over the message; all that does not fit is `False`."""
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key))
        raw = bytes.fromhex(signature)
        key.verify(raw, message)
    except (InvalidSignature, ValueError):
        return False
    return raw.hex() == signature and key.public_bytes_raw().hex() == public_key


def new_key() -> str:
    """Return a new private key as PEM."""
    key = Ed25519PrivateKey.generate()
    text = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return text.decode()


def signer_of(text: str, path: Path) -> Ed25519Signer:
    """Return the signer of a given key, else of the one in the file, which is made if missing.

    Raises `BadKeyError`, `OSError`.
    """
    if text:
        return Ed25519Signer(text)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, new_key())
    return Ed25519Signer(path.read_text())
