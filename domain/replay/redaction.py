"""What people wrote, and what tools and models said, taken out of a run's lines.

Every text is replaced by a function of that text alone, so what was equal stays equal: a tool's
input is still the arguments of the answer that asked for it, a run's output still its last
answer. So a redacted run is decided again like any other, to its redacted bytes.
"""

from collections.abc import Callable
from typing import Any, Final

from pydantic_core import from_json, to_json

from agentos.domain.agent.agent import Definition
from agentos.domain.run.approving import NOT_APPROVED
from agentos.domain.run.events import (
    ModelCompleted,
    RunCanceled,
    RunCancelRequested,
    RunCompleted,
    RunCreated,
    RunFailed,
    ToolCallApproved,
    ToolCallCompleted,
    ToolCallRejected,
    ToolCallRequested,
)

Redact = Callable[[str], str]
Path = tuple[str, ...]
ERROR: Final[tuple[Path, ...]] = (("error", "message"), ("error", "details"))
CONTENT: Final[dict[str, tuple[Path, ...]]] = {
    RunCreated.TYPE: (
        ("input", "text"),
        ("context",),
        ("idempotency_key",),
        ("principal", "principal_id"),
        ("principal", "display_name"),
    ),
    ModelCompleted.TYPE: (
        ("message", "content"),
        ("message", "tool_calls", "*", "arguments"),
        *ERROR,
    ),
    ToolCallRequested.TYPE: (("input",),),
    ToolCallCompleted.TYPE: (("output",), *ERROR),
    ToolCallApproved.TYPE: (("by",), ("reason",)),
    ToolCallRejected.TYPE: (("by",), ("reason",)),
    RunCancelRequested.TYPE: (("by",), ("reason",)),
    RunCompleted.TYPE: (("output", "text"), ("output", "artifacts")),
    RunFailed.TYPE: ERROR,
    RunCanceled.TYPE: (("by",),),
}
OURS: Final = frozenset(
    {
        "the run's time is up",
        "the run used all its steps",
        "the run has used its cost budget",
        "the tool is not allowed in this run",
        "policy does not allow this call",
        NOT_APPROVED,
    }
)
"""What decisions themselves say of an error: nobody's content, and decided again as it is."""


def redact_line(line: bytes, redact: Redact) -> bytes:
    """Return the line with its content redacted; the very same bytes where nothing was found."""
    whole = from_json(line)
    event = whole["event"]
    changed = [_replace(event["payload"], path, redact) for path in CONTENT.get(event["type"], ())]
    return to_json(whole) if any(changed) else line


def redact_definition(definition: Definition, redact: Redact) -> Definition:
    """Return the agent's version with what people wrote in it redacted; decisions are as before."""
    texts = {
        name: redact(text)
        for name in ("name", "description", "instructions")
        if (text := getattr(definition, name))
    }
    return definition.model_copy(update=texts)


def _replace(place: Any, path: Path, redact: Redact) -> bool:
    """Redact what lies at a path below `place`; whether anything was changed."""
    name, *rest = path
    if name == "*":
        found = [_replace(part, tuple(rest), redact) for part in place or ()]
        return any(found)
    if not isinstance(place, dict) or place.get(name) is None:
        return False
    if name == "error" and _is_ours(place[name]):
        reason: Path = ("reason",)  # a person's words, as in the rejection before it
        return path == ERROR[1] and _replace(place[name]["details"], reason, redact)
    if rest:
        return _replace(place[name], tuple(rest), redact)
    before = place[name]
    place[name] = _redacted(before, redact)
    return bool(place[name] != before)


def _is_ours(error: Any) -> bool:
    details: Any = error.get("details") if isinstance(error, dict) else None
    return (
        isinstance(details, dict)
        and details.keys() <= {"tool_id", "limit", "reasons", "approval_id", "reason"}
        and error["message"] in OURS
    )


def _redacted(value: Any, redact: Redact) -> Any:
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, list):
        return [_redacted(part, redact) for part in value]
    if isinstance(value, dict):
        made: dict[str, Any] = {}
        for name, part in value.items():
            made[_unused(redact(name), made)] = _redacted(part, redact)
        return made
    return value


def _unused(name: str, taken: dict[str, Any]) -> str:
    """Return a name for a member: two that were told apart are still two."""
    number, free = 2, name
    while free in taken:
        free, number = f"{name}#{number}", number + 1
    return free
