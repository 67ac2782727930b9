"""AES-256-GCM, bound to a place; the same content at the same place gives the same bytes.

A commit whose answer was lost is sent again as the very same bytes. So the nonce is no random
number: it is a keyed digest of the place and the content (a place is an event's field, and each
is written once).
"""

import hashlib
import hmac
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12


class Cipher:
    """One key. It is in no `repr` and no error."""

    def __init__(self, key: bytes) -> None:
        self._aead = AESGCM(hashlib.sha256(b"agentos content " + key).digest())
        self._nonces = hashlib.sha256(b"agentos nonces " + key).digest()

    def seal(self, plain: bytes, bound: bytes) -> bytes:
        """Return the sealed bytes, which open only with the same key and binding."""
        named = len(bound).to_bytes(4) + bound + plain
        nonce = hmac.digest(self._nonces, named, "sha256")[:NONCE_BYTES]
        return nonce + self._aead.encrypt(nonce, plain, bound)

    def open(self, box: bytes, bound: bytes) -> bytes:
        """Return the plain bytes; `ValueError` for another key or place, or a changed box."""
        try:
            return self._aead.decrypt(box[:NONCE_BYTES], box[NONCE_BYTES:], bound)
        except (InvalidTag, ValueError) as exc:
            raise ValueError("sealed with another key, for another place, or changed") from exc
