"""Where a recorded line and the recomputed one part, and why."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from pydantic_core import from_json, to_json

SHOWN: Final = 200
MISSING: Final = object()


@dataclass(frozen=True, slots=True)
class Difference:
    """The first event that differs. `field` is a path such as `payload.status`, where one is.

    `recorded` and `recomputed` are the two values as JSON, cut to 200 characters; `None` where
    one side has nothing there.
    """

    sequence: int
    type: str
    reason: str
    field: str | None = None
    recorded: str | None = None
    recomputed: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as `--json` prints it."""
        return {name: getattr(self, name) for name in self.__slots__}


def between(sequence: int, kind: str, recorded: bytes, recomputed: bytes) -> Difference:
    """Return how two lines that are not the same differ."""
    try:
        one, other = from_json(recorded)["event"], from_json(recomputed)["event"]
        found = next(_parts(one, other, ""), None)
    except (ValueError, KeyError, TypeError):
        return Difference(sequence, kind, "the line is no event", None, _cut(recorded), None)
    if found is None:
        reason = "the same values are written in other bytes"
        return Difference(sequence, kind, reason, None, _cut(recorded), _cut(recomputed))
    path, was, would_be = found
    return Difference(sequence, kind, _reason(was, would_be), path, _shown(was), _shown(would_be))


def missing(sequence: int, kind: str, recomputed: bytes) -> Difference:
    """Return that the log lacks an event that the decision gives."""
    reason = "the decision gives an event that the log does not have"
    return Difference(sequence, kind, reason, None, None, _cut(recomputed))


def surplus(sequence: int, kind: str, recorded: bytes) -> Difference:
    """Return that the log has an event that the decision does not give."""
    reason = "the log has an event that the decision does not give"
    return Difference(sequence, kind, reason, None, _cut(recorded), None)


def _reason(was: Any, would_be: Any) -> str:
    if would_be is MISSING:
        return "the log has a field that the decision does not give"
    if was is MISSING:
        return "the decision gives a field that the log does not have"
    return "the decision gives another value"


def _parts(one: Any, other: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    """Yield the paths at which two JSON values differ, in the order of the first."""
    if isinstance(one, dict) and isinstance(other, dict):
        for name in one | other:
            here = f"{path}.{name}" if path else name
            yield from _parts(one.get(name, MISSING), other.get(name, MISSING), here)
    elif isinstance(one, list) and isinstance(other, list):
        for at in range(max(len(one), len(other))):
            yield from _parts(_item(one, at), _item(other, at), f"{path}[{at}]")
    elif type(one) is not type(other) or one != other:
        yield path, one, other


def _item(values: list[Any], at: int) -> Any:
    return values[at] if at < len(values) else MISSING


def _shown(value: Any) -> str | None:
    return None if value is MISSING else _cut(to_json(value))


def _cut(text: bytes) -> str:
    shown = text.decode(errors="replace")
    return shown if len(shown) <= SHOWN else f"{shown[:SHOWN]}…"
