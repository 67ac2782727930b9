"""Canonical JSON (RFC 8785): one value, one sequence of bytes, so that a hash means the value.

Numbers are integers within 2^53 only: what the standard says of them needs no rounding. A
record holds nothing else, and what holds something else is no record.
"""

import json
from typing import Any, Final

LARGEST: Final = 2**53 - 1
BASIC: Final = "\ud7ff"
"""Up to here code points and UTF-16 code units sort alike."""

_write = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode
_write_in_order = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


def canonical(value: Any) -> bytes:
    """Return the RFC 8785 bytes of JSON made of objects, arrays, text, integers, true, false, null.

    Raises `ValueError` for anything else: fractions, integers beyond 2^53, half surrogates,
    keys that are no text.
    """
    text = _write(value) if _check(value) else _write_in_order(_sorted(value))
    return text.encode()


def _check(value: Any) -> bool:
    """Raise unless `value` may be written; return whether its keys sort as code points do."""
    if isinstance(value, str) or value is None or value is True or value is False:
        return True
    if isinstance(value, int):
        if not -LARGEST <= value <= LARGEST:
            raise ValueError("an integer beyond 2^53")
        return True
    if isinstance(value, dict):
        plain = True
        for key, inner in value.items():
            if not isinstance(key, str):
                raise ValueError("a key that is no text")
            plain = _check(inner) and key <= BASIC and plain
        return plain
    if isinstance(value, list | tuple):
        each = [_check(inner) for inner in value]  # also those behind one that is not plain
        return all(each)
    raise ValueError(f"{type(value).__name__} has no canonical form here")


def _sorted(value: Any) -> Any:
    """Return `value` with its keys in the order of their UTF-16 code units, as RFC 8785 has it."""
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value, key=_units)}
    return [_sorted(inner) for inner in value] if isinstance(value, list | tuple) else value


def _units(key: str) -> bytes:
    return key.encode("utf-16-be", "surrogatepass")
