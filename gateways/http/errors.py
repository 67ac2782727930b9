"""The one table from an error's code to its HTTP answer."""

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import orjson
from starlette.exceptions import HTTPException

from agentos.domain.errors import (
    AgentOSError,
    InternalError,
    InvalidRequestError,
    MethodNotAllowedError,
    NotFoundError,
)
from agentos.gateways.http.answers import Answer

log = logging.getLogger(__name__)

ErrorAnswer = Callable[[AgentOSError, str], Answer]
"""How a family of routes spells its errors: the error and the correlation id in, an answer out."""

STATUS: Final[Mapping[str, int]] = {
    "invalid_request": 400,
    "invalid_json": 400,
    "tenant_mismatch": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "tenant_disabled": 403,
    "tenant_unknown": 403,
    "policy_blocked": 403,
    "approval_required": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "conflict": 409,
    "invalid_state_transition": 409,
    "cursor_expired": 410,
    "erased": 410,
    "payload_too_large": 413,
    "rate_limited": 429,
    "quota_exceeded": 429,
    "slow_consumer": 429,
    "provider_error": 502,
    "forward_failed": 502,
    "events_proxy_failed": 502,
    "dependency_unavailable": 503,
    "timeout": 504,
    "internal_error": 500,
}


def error_answer(error: AgentOSError, correlation_id: str) -> Answer:
    """Return the contract's error body with its status and headers."""
    wire = error.to_wire()
    return Answer(
        error_body(wire, correlation_id), STATUS.get(error.code, 500), error_headers(error, wire)
    )


def error_body(wire: Mapping[str, Any], correlation_id: str) -> bytes:
    """Return `{"error": {…}, "correlation_id": …}` as bytes."""
    return orjson.dumps({"error": wire, "correlation_id": correlation_id}, default=str)


def error_headers(error: AgentOSError, wire: Mapping[str, Any]) -> dict[str, str]:
    """Return the headers that an error has besides its body, whatever the body's shape."""
    headers: dict[str, str] = {}
    if error.code == "unauthorized":
        headers["www-authenticate"] = "Bearer"
    elif error.code == "method_not_allowed":
        headers["allow"] = ", ".join(error.details.get("allowed", ()))
    elif error.code == "rate_limited":
        wait_ms = float(error.details.get("retry_after_ms", 1000))
        headers["retry-after"] = str(max(1, math.ceil(wait_ms / 1000)))
    elif error.code == "quota_exceeded" and not wire["retryable"]:
        headers["x-should-retry"] = "false"
    return headers


def as_our_error(exc: Exception, whose: Mapping[str, str]) -> AgentOSError:
    """Return what the caller may see of any exception; what is not ours is logged whole.

    `whose` are the log's fields of the request: `Call.log_fields`, or a part of them.
    """
    if isinstance(exc, AgentOSError):
        return exc
    if isinstance(exc, HTTPException):
        return _of_framework(exc)
    log.error("unexpected error", exc_info=exc, extra=dict(whose))
    return InternalError("something broke on our side; the log has it under the correlation id")


def _of_framework(exc: HTTPException) -> AgentOSError:
    match exc.status_code:
        case 404:
            return NotFoundError("no such path")
        case 405:
            return MethodNotAllowedError("the path does not take this method")
        case _:
            return InvalidRequestError(str(exc.detail), errors=[])


def misfit(loc: list[str | int], msg: str) -> InvalidRequestError:
    """Return `invalid_request` for one place of the request: `["query", "limit"]` …"""
    return InvalidRequestError(
        f"{'.'.join(str(part) for part in loc)}: {msg}", errors=[{"loc": loc, "msg": msg}]
    )
