"""Where in a JSON text a value stands: for errors that say the line."""

import json
from typing import Any, Final

Path = tuple[str | int, ...]
SPACE: Final = " \t\r\n"
DECODER: Final = json.JSONDecoder()


def lines_of(text: str) -> dict[Path, int]:
    """Return the line (from 1) of each value of a valid JSON text by its path."""
    found: dict[Path, int] = {}
    _walk(text, _skip(text, 0), (), found)
    return found


def repeated_name(text: str) -> str | None:
    """Return a name that stands twice in one object of a valid JSON text, if there is one."""
    repeated: list[str] = []

    def check(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        repeated.extend(name for name in set(names) if names.count(name) > 1)
        return dict(pairs)

    json.loads(text, object_pairs_hook=check)
    return repeated[0] if repeated else None


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in SPACE:
        at += 1
    return at


def _walk(text: str, at: int, path: Path, found: dict[Path, int]) -> int:
    found[path] = text.count("\n", 0, at) + 1
    match text[at]:
        case "{":
            return _walk_object(text, at + 1, path, found)
        case "[":
            return _walk_list(text, at + 1, path, found)
        case '"':
            return DECODER.raw_decode(text, at)[1]
        case _:
            while at < len(text) and text[at] not in ",]}" + SPACE:
                at += 1
            return at


def _walk_object(text: str, at: int, path: Path, found: dict[Path, int]) -> int:
    at = _skip(text, at)
    while text[at] != "}":
        name, at = DECODER.raw_decode(text, at)
        at = _skip(text, _skip(text, at) + 1)
        at = _skip(text, _walk(text, at, (*path, name), found))
        at = _skip(text, at + 1) if text[at] == "," else at
    return at + 1


def _walk_list(text: str, at: int, path: Path, found: dict[Path, int]) -> int:
    at, number = _skip(text, at), 0
    while text[at] != "]":
        at = _skip(text, _walk(text, at, (*path, number), found))
        number += 1
        at = _skip(text, at + 1) if text[at] == "," else at
    return at + 1
