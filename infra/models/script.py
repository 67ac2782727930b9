"""The grammar of `builtin/scripted` and `builtin/sleep`: what each line of a text asks for.

| line | asks for |
|---|---|
| `sleep <ms>` | a pause; a number of milliseconds, not negative, a fraction is allowed |
| `fail <code>` | the failure with that code of the contract; other codes are `model_failed` |
| `calculate <expression>` | a call of `tool.calculate` |
| `call <tool_id> <json>` | a call of that tool; the JSON is an object, nothing reads as `{}` |
| anything else | itself |

A line that begins like a command and does not fit (a pause that is no number, JSON that is
broken or no object, an impossible tool id or code) is text too: it is echoed, and so the
author sees it. Lines end with a line feed; blanks around a command do not count.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic_core import from_json

from agentos.domain.ids import TOOL_ID

MAX_PARALLEL_CALLS: Final = 128

_SLEEP: Final = re.compile(r"sleep[ \t]+([0-9]{1,15}(?:\.[0-9]{1,6})?)")
_FAIL: Final = re.compile(r"fail[ \t]+([A-Za-z0-9_.-]{1,64})")
_CALCULATE: Final = re.compile(r"calculate[ \t]+(\S.*)")
_CALL: Final = re.compile(r"call[ \t]+(\S+)(?:[ \t]+(\S.*))?")


@dataclass(frozen=True, slots=True)
class Text:
    """A line that is echoed."""

    text: str


@dataclass(frozen=True, slots=True)
class Sleep:
    """A pause."""

    ms: float


@dataclass(frozen=True, slots=True)
class Fail:
    """A failure with a code."""

    code: str


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call; its result takes the line's place."""

    tool_id: str
    arguments: Mapping[str, Any]


Line = Text | Sleep | Fail | Call


def parse_script(text: str) -> list[Line]:
    """Return what each line of `text` asks for; it never fails."""
    return [_parse_line(line) for line in text.split("\n")]


def parse_sleep(line: str) -> float | None:
    """Return the milliseconds that a line says to sleep, `None` if it says something else."""
    match = _SLEEP.fullmatch(line.strip())
    return float(match[1]) if match else None


def lines_left(script: Sequence[Line], answered: int) -> int:
    """Return the index of the first line behind the `answered`-th call (0: the first line)."""
    if answered == 0:
        return 0
    seen = 0
    for index, line in enumerate(script):
        seen += isinstance(line, Call)
        if seen == answered:
            return index + 1
    return len(script)


def parallel_calls(script: Sequence[Line], start: int) -> list[Call]:
    """Return the calls that stand directly below one another from `start`, at most 128."""
    calls: list[Call] = []
    for line in script[start : start + MAX_PARALLEL_CALLS]:
        if not isinstance(line, Call):
            break
        calls.append(line)
    return calls


def _parse_line(raw: str) -> Line:
    line = raw.strip()
    if (ms := parse_sleep(line)) is not None:
        return Sleep(ms)
    if match := _FAIL.fullmatch(line):
        return Fail(match[1])
    if match := _CALCULATE.fullmatch(line):
        return Call("tool.calculate", {"expression": match[1]})
    if match := _CALL.fullmatch(line):
        arguments = _arguments(match[2])
        if arguments is not None and TOOL_ID.match(match[1]):
            return Call(match[1], arguments)
    return Text(raw)


def _arguments(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return {}
    try:
        value = from_json(text, allow_inf_nan=False)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
