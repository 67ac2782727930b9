"""The opaque cursor of lists: where the page ended, bound to the tenant and the filters.

It is no secret and needs no key: it never widens what a query may see, for the tenant comes
from the credential. The digest catches a cursor that is used for another list, or damaged.
"""

import hashlib
from base64 import b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from collections.abc import Sequence
from typing import Final

import orjson

from agentos.domain.errors import InvalidRequestError

DIGEST_BYTES: Final = 12
LONGEST: Final = 1024

Scope = Sequence[str | int | Sequence[Sequence[str]] | None]


def encode_cursor(tenant_id: str, scope: Scope, key: Sequence[str]) -> str:
    """Return the cursor of the page that ends at `key`; `scope` names the list and its filters."""
    body = orjson.dumps(list(key))
    return urlsafe_b64encode(_digest(tenant_id, scope, body) + body).decode().rstrip("=")


def decode_cursor(tenant_id: str, scope: Scope, cursor: str, parts: int) -> list[str]:
    """Return the key, `parts` texts, that `encode_cursor` put in.

    Raises `InvalidRequestError` for a cursor of another tenant, list or filters, and for
    anything that is no cursor.
    """
    try:
        if len(cursor) > LONGEST:
            raise _misfit()
        raw = b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
    except (Base64Error, ValueError) as exc:
        raise _misfit() from exc
    digest, body = raw[:DIGEST_BYTES], raw[DIGEST_BYTES:]
    if digest != _digest(tenant_id, scope, body):
        raise _misfit()
    try:
        key = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise _misfit() from exc
    if not (isinstance(key, list) and len(key) == parts and all(isinstance(k, str) for k in key)):
        raise _misfit()
    return key


def _digest(tenant_id: str, scope: Scope, body: bytes) -> bytes:
    bound = orjson.dumps([tenant_id, scope])
    return hashlib.sha256(len(bound).to_bytes(4, "big") + bound + body).digest()[:DIGEST_BYTES]


def _misfit() -> InvalidRequestError:
    return InvalidRequestError(
        "the cursor does not belong to this list",
        errors=[{"loc": ["query", "cursor"], "msg": "not a cursor of this tenant and filters"}],
    )
