"""Identifiers: their shapes, how they are made, and what may become part of a subject."""

import hashlib
import re
from functools import lru_cache
from typing import Final

CROCKFORD: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
PAIRS: Final = [a + b for a in CROCKFORD for b in CROCKFORD]
NAMED_ID: Final = re.compile(r"^[a-z]{2,8}_[A-Za-z0-9_-]{1,100}\Z")
TOOL_ID: Final = re.compile(r"^tool(\.[a-z0-9_-]{1,40}){1,6}\Z")
NAMED_ID_PATTERN: Final = r"^[a-z]{2,8}_[A-Za-z0-9_-]{1,100}$"
TOOL_ID_PATTERN: Final = r"^tool(\.[a-z0-9_-]{1,40}){1,6}$"
FREE_ID_PATTERN: Final = r"^[^\x00-\x1f\x7f-\x9f]{1,256}$"


def crockford(value: int, characters: int = 26) -> str:
    """Return the low bits of `value` as so many (an even number of) Crockford characters."""
    shifts = range(5 * characters - 10, -1, -10)
    return "".join([PAIRS[(value >> shift) & 1023] for shift in shifts])


@lru_cache(maxsize=64)
def _time_part(now_ms: int) -> str:
    return crockford(now_ms, 10)


def make_id(prefix: str, now_ms: int, entropy: int) -> str:
    """Return `<prefix>_<ULID>`: 48 bits of time, 80 bits of `entropy`, so ids sort by time."""
    return f"{prefix}_{_time_part(now_ms)}{crockford(entropy, 16)}"


def derived_id(prefix: str, *parts: str) -> str:
    """Return the one id that follows from `parts`: the same for every process that asks."""
    digest = hashlib.sha256("\0".join(parts).encode()).digest()
    return f"{prefix}_{crockford(int.from_bytes(digest[:17], 'big') >> 6)}"


def is_named_id(text: str, prefix: str | None = None) -> bool:
    """Whether `text` may name a tenant, agent, policy, stack or run (and stand in a subject)."""
    return bool(NAMED_ID.match(text)) and (prefix is None or text.startswith(prefix + "_"))
