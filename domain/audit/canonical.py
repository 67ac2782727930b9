"""Canonical JSON (RFC 8785): one value, one sequence of bytes, so that a hash means the value.

Numbers are integers within 2^53 only: what the standard says of them needs no rounding. A
record holds nothing else, and what holds something else is no record. Its texts are written
as the standard has them by `to_json` (and by any JSON writer that escapes as little as it may).
"""

from typing import Any, Final

from pydantic_core import to_json

LARGEST: Final = 2**53 - 1


def canonical(value: Any) -> bytes:
    """Return the RFC 8785 bytes of JSON made of objects, arrays, text, integers, true, false, null.

    Raises `ValueError` for anything else: fractions, integers beyond 2^53, half surrogates,
    keys that are no text.
    """
    return to_json(_ordered(value))


def _ordered(value: Any) -> Any:
    """Return a value with its keys in their order; raise unless it may be written."""
    if isinstance(value, str) or value is None or value is True or value is False:
        return value
    if isinstance(value, int):
        if not -LARGEST <= value <= LARGEST:
            raise ValueError("an integer beyond 2^53")
        return value
    if isinstance(value, dict):
        return _members(value)
    if isinstance(value, list | tuple):
        return [_ordered(inner) for inner in value]
    raise ValueError(f"{type(value).__name__} has no canonical form here")


def _members(members: dict[Any, Any]) -> dict[str, Any]:
    """Return an object in the order of its keys' UTF-16 code units.

    Texts, nearly all that a record holds, are passed by without a call.
    """
    found: dict[str, Any] = {}
    for key in _keys(members):
        inner = members[key]
        found[key] = inner if type(inner) is str else _ordered(inner)
    return found


def _keys(members: dict[Any, Any]) -> list[str]:
    keys = list(members)
    for key in keys:
        if not isinstance(key, str):
            raise ValueError("a key that is no text")
        if not key.isascii():
            return sorted(keys, key=_units)
    keys.sort()
    return keys


def _units(key: Any) -> bytes:
    if not isinstance(key, str):
        raise ValueError("a key that is no text")
    return key.encode("utf-16-be", "surrogatepass")
