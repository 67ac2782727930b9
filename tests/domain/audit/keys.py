"""Signing keys for tests of chains: real Ed25519 keys, made from a seed."""

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agentos.infra.signing import Ed25519Signer


def signer(seed: int = 1) -> Ed25519Signer:
    """Return the signer of a seed, always the same."""
    key = Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return Ed25519Signer(pem.decode())
