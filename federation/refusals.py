"""What a peer's no comes to here. It is bounded first: it is written down, and shown to callers."""

import math
from collections.abc import Mapping
from typing import Any, Final

from pydantic_core import to_json

from agentos.domain.errors import BY_CODE, AgentOSError, ForwardFailedError, error_from_wire
from agentos.federation.parts import PeerAnswer

RETRIED: Final = frozenset({401, 408, 425, 429})
# What a peer refuses for the caller's sake is the caller's to know; all else is between nodes.
PASSED_ON: Final = frozenset(
    {
        "invalid_request",
        "not_found",
        "conflict",
        "invalid_state_transition",
        "tenant_unknown",
        "tenant_disabled",
        "quota_exceeded",
        "rate_limited",
        "policy_blocked",
        "payload_too_large",
    }
)
CODE_CHARACTERS: Final = 64
MESSAGE_CHARACTERS: Final = 500
DETAILS: Final = 32
DETAILS_BYTES: Final = 8 * 1024
LEVELS: Final = 8
# Ours to say: `stack_id` is the peer's, and whether to try again stands beside the details.
NOT_TAKEN: Final = frozenset({"stack_id", "retryable"})


def refusal_of(answer: PeerAnswer, stack_id: str) -> AgentOSError:
    """Return what a caller hears of a peer's no."""
    status, body, _ = answer
    wire = bounded(body.get("error"))
    code, message = wire["code"], wire["message"]
    if code in PASSED_ON and code in BY_CODE:
        details = {**wire["details"], "stack_id": stack_id}
        return error_from_wire({**wire, "message": f"{stack_id}: {message}", "details": details})
    said = {"code": code, "message": message} if code else {}
    return ForwardFailedError(
        f"{stack_id} answers {status} {code}".rstrip(),
        stack_id=stack_id,
        peer_status=status,
        peer_error=said,
        retryable=may_pass(status),
    )


def may_pass(status: int) -> bool:
    """Whether what a peer answers with that status may be different the next time."""
    return status >= 500 or status in RETRIED


def is_retried(answer: PeerAnswer) -> bool:
    """Whether to ask at once again."""
    status, _, headers = answer
    return may_pass(status) and headers.get("x-should-retry", "").lower() != "false"


def retry_after(answer: PeerAnswer) -> float:
    """Return how many seconds the peer wants to be left alone."""
    text = answer[2].get("retry-after", "")
    return float(text) if text.isascii() and text.isdigit() and len(text) < 6 else 0.0


def bounded(error: object) -> dict[str, Any]:
    """Return an error object of a peer with what of it can be kept: short, flat and few.

    It becomes part of a line of the log, which everybody must be able to read.
    """
    wire: Mapping[Any, Any] = error if isinstance(error, dict) else {}
    found: dict[str, Any] = {
        "code": _text(wire.get("code"), CODE_CHARACTERS),
        "message": _text(wire.get("message"), MESSAGE_CHARACTERS),
        "details": _details(wire.get("details")),
    }
    if isinstance(wire.get("retryable"), bool):
        found["retryable"] = wire["retryable"]
    return found


def _text(value: object, characters: int) -> str:
    return value[:characters].replace("\x00", "\ufffd") if isinstance(value, str) else ""


def _details(value: object) -> dict[str, Any]:
    """Return the details that fit, in their order."""
    found: dict[str, Any] = {}
    size = 0
    for name, detail in (value if isinstance(value, dict) else {}).items():
        if name in NOT_TAKEN or not (_fits(name) and _fits(detail)):
            continue
        size += len(to_json([name, detail]))
        if size > DETAILS_BYTES or len(found) == DETAILS:
            break
        found[name] = detail
    return found


def _fits(value: object, levels: int = LEVELS) -> bool:
    """Whether a value can go into every line, column and answer: plain, and not nested deep."""
    match value:
        case dict():
            return levels > 0 and all(_fits(k) and _fits(v, levels - 1) for k, v in value.items())
        case list():
            return levels > 0 and all(_fits(item, levels - 1) for item in value)
        case str():
            return "\x00" not in value
        case bool() | None:
            return True
        case int():
            return -(2**63) <= value < 2**63
        case float():
            return math.isfinite(value)
    return False
