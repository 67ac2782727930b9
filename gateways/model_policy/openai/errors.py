"""Errors as OpenAI's clients expect them, on the paths that are theirs."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from agentos.domain.errors import AgentOSError
from agentos.gateways.http.answers import Answer
from agentos.gateways.http.errors import STATUS, error_headers

TYPES: Final[Mapping[int, str]] = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


def openai_error_answer(error: AgentOSError, correlation_id: str) -> Answer:
    """Return an error's body, status and headers.

    The official client repeats every 409, 429 and 5xx unless it is told not to.
    """
    wire = error.to_wire()
    headers = error_headers(error, wire)
    wait_ms = error.details.get("retry_after_ms")
    if wire["retryable"] and isinstance(wait_ms, int | float) and 0 < wait_ms < 1e9:
        headers["retry-after"] = str(math.ceil(wait_ms / 1000))
        headers["retry-after-ms"] = str(math.ceil(wait_ms))
    if not wire["retryable"]:
        headers["x-should-retry"] = "false"
    body = orjson.dumps(openai_error(error, correlation_id), default=str)
    return Answer(body, status_of(error), headers)


def openai_error(error: AgentOSError, correlation_id: str) -> dict[str, Any]:
    """Return `{error: {message, type, param, code, retryable, details}, correlation_id}`."""
    wire = error.to_wire()
    param, message = _place(error)
    return {
        "error": {
            "message": message or wire["message"],
            "type": type_of(status_of(error)),
            "param": param,
            "code": wire["code"],
            "retryable": wire["retryable"],
            "details": wire["details"],
        },
        "correlation_id": correlation_id,
    }


def status_of(error: AgentOSError) -> int:
    """Return the contract's status of an error."""
    return STATUS.get(error.code, 500)


def type_of(status: int) -> str:
    """Return OpenAI's kind of error."""
    return TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")


def _place(error: AgentOSError) -> tuple[str | None, str | None]:
    """Return the first place that does not fit, and what is said of it."""
    errors = error.details.get("errors")
    if not isinstance(errors, list) or not errors:
        return None, None
    loc, msg = errors[0]["loc"], errors[0]["msg"]
    param = _spelled(loc[1:] if loc[:1] == ["body"] else loc)
    return param, f"{param}: {msg}" if param else msg


def _spelled(loc: Sequence[str | int]) -> str | None:
    """Return a place as `messages[0].content`."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in loc)
    return text.removeprefix(".") or None


def error_frame(error: AgentOSError, correlation_id: str) -> bytes:
    """Return the event that ends a stream which broke off: the client raises at it."""
    return b"data: %b\n\n" % orjson.dumps(openai_error(error, correlation_id), default=str)
