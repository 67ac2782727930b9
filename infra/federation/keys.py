"""This node's signing keys: Ed25519, on disk. The newest signs, all of them are published."""

import base64
import hashlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

ALGORITHM: Final = "EdDSA"
FOLDER: Final = "federation_keys"
KEPT: Final = 3
RELOAD_S: Final = 1.0


class KeyRing:
    """The keys in a directory, one PEM file each, named by the time it was made.

    A key that is rotated out is still published until `KEPT` newer ones are there, so that a
    token on its way verifies. Read again when the directory changes.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._keys: list[tuple[str, Ed25519PrivateKey]] = []
        self._stamp = 0
        self._looked = 0.0

    def ensure(self) -> None:
        """Make the first key if there is none."""
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not list(self._directory.glob("*.pem")):
            self.rotate()
        self._load()

    def rotate(self) -> str:
        """Make a new key that signs from now on; returns its id. The oldest goes."""
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        key = Ed25519PrivateKey.generate()
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        path = self._directory / f"{time.time_ns():020d}.pem"
        handle = os.open(path.with_suffix(".new"), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
        path.with_suffix(".new").rename(path)
        for old in sorted(self._directory.glob("*.pem"))[:-KEPT]:
            old.unlink()
        self._load()
        return key_id(key)

    def sign(self, claims: Mapping[str, Any]) -> str:
        """Return a token with these claims, signed with the newest key."""
        self._reload()
        kid, key = self._keys[-1]
        return jwt.encode(dict(claims), key, ALGORITHM, headers={"kid": kid})

    def key_set(self) -> dict[str, Any]:
        """Return the public keys as a JSON Web Key Set."""
        self._reload()
        return {"keys": [public_key(kid, key) for kid, key in self._keys]}

    def _reload(self) -> None:
        now = time.monotonic()
        if now - self._looked < RELOAD_S:
            return
        self._looked = now
        if self._directory.stat().st_mtime_ns != self._stamp:
            self._load()

    def _load(self) -> None:
        self._stamp = self._directory.stat().st_mtime_ns
        keys = [_read(path) for path in sorted(self._directory.glob("*.pem"))]
        self._keys = [(key_id(key), key) for key in keys]


def key_id(key: Ed25519PrivateKey) -> str:
    """Return the id that follows from a key (RFC 7638 thumbprint)."""
    members = {"crv": "Ed25519", "kty": "OKP", "x": _x(key)}
    canonical = json.dumps(members, separators=(",", ":"), sort_keys=True)
    digest = hashlib.sha256(canonical.encode()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def _read(path: Path) -> Ed25519PrivateKey:
    key = load_pem_private_key(path.read_bytes(), None)
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError(f"{path} is no Ed25519 key")
    return key


def _x(key: Ed25519PrivateKey) -> str:
    raw = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def public_key(kid: str, key: Ed25519PrivateKey) -> dict[str, Any]:
    """Return the public half of a key, as a member of a key set."""
    return {
        "kty": "OKP",
        "crv": "Ed25519",
        "x": _x(key),
        "kid": kid,
        "use": "sig",
        "alg": ALGORITHM,
    }
