"""The texts in a JSON value that policy looks at, by the names of their places, and back again.

A number is a text, too: a card's number is no less one without quotes. A place has nothing of
what somebody wrote in it but plain names: another name is its number among its siblings.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

Field = tuple[str, str]
Rewrite = Callable[[str, str], str]
PLAIN: Final = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]{0,31}\Z")


def collect(value: Any, path: str, fields: list[Field], names: dict[str, None]) -> None:
    """Add every text and number in a value, by its place below `path`, and every name in it."""
    if isinstance(value, str):
        if value:
            fields.append((path, value))
    elif isinstance(value, Mapping):
        for index, (name, inner) in enumerate(value.items()):
            names[name] = None
            collect(inner, path + _step(name, index), fields, names)
    elif isinstance(value, Sequence):
        for index, inner in enumerate(value):
            collect(inner, f"{path}[{index}]", fields, names)
    elif _is_number(value):
        fields.append((path, str(value)))


def rewritten(value: Any, path: str, rewrite: Rewrite) -> Any:
    """Return the value with `rewrite(field, text)` in place of each of its texts."""
    if isinstance(value, str):
        return rewrite(path, value) if value else value
    if isinstance(value, Mapping):
        return {
            name: rewritten(inner, path + _step(name, index), rewrite)
            for index, (name, inner) in enumerate(value.items())
        }
    if isinstance(value, Sequence):
        return [rewritten(inner, f"{path}[{i}]", rewrite) for i, inner in enumerate(value)]
    if _is_number(value):
        text = str(value)
        changed = rewrite(path, text)
        return value if changed == text else changed
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _step(name: str, index: int) -> str:
    return f".{name}" if PLAIN.match(name) else f"[{index}]"
