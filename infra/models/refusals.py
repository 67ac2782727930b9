"""What a refused request of a model server means in the contract's errors."""

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

import orjson

from agentos.domain.errors import AgentOSError, InvalidRequestError, ProviderError

MAX_ERROR_BYTES: Final = 64 * 1024
MAX_MESSAGE: Final = 300
# Refusals that another attempt may mend, besides the 5xx.
PASSING: Final = frozenset({408, 409, 425, 429})
LASTING: Final = frozenset({501, 505})
# Google says 400 to a wrong key, OpenAI 429 to an account without money.
_KEY_MARK: Final = b"API_KEY_INVALID"
_NO_MONEY_MARK: Final = b"insufficient_quota"


def refusal(
    backend: str, status: int, headers: Mapping[str, str], body: bytes, secrets: tuple[str, ...]
) -> AgentOSError:
    """Return the error that a status other than 200 stands for, with the stage `answer`.

    404 is an unknown model, 400, 413 and 422 a request that cannot be mended: both are the
    caller's. 429 and 5xx may be tried again, the rest (401, 403, 402 …) may not. The server's
    own words are cut to 300 characters, and left out where they are about the key.
    """
    if _KEY_MARK in body:
        status = 401
    details: dict[str, Any] = {"stage": "answer", "backend": backend, "status": status}
    if status not in (401, 403) and (words := _own_words(body, secrets)):
        details["reason"] = words
    if status == 404:
        return InvalidRequestError("the backend has no such model", **details)
    if status in (400, 413, 422):
        return InvalidRequestError("the model backend refused the request", **details)
    if (after_ms := retry_after_ms(headers)) is not None:
        details["retry_after_ms"] = after_ms
    return ProviderError(
        f"the model backend answered {status}",
        retryable=is_passing(status) and _NO_MONEY_MARK not in body,
        **details,
    )


def is_passing(status: int) -> bool:
    """Whether the same request may get another answer a little later."""
    return status in PASSING or (status >= 500 and status not in LASTING)


def retry_after_ms(headers: Mapping[str, str]) -> int | None:
    """Return what `retry-after-ms` or `retry-after` (seconds or a date) says, if anything."""
    for name, scale in (("retry-after-ms", 1.0), ("retry-after", 1000.0)):
        text = headers.get(name, "").strip()
        if text.replace(".", "", 1).isdecimal() and text.isascii() and len(text) < 16:
            return round(float(text) * scale)
    try:
        moment = parsedate_to_datetime(headers.get("retry-after", ""))
    except ValueError:
        return None
    if moment.tzinfo is None:
        return None
    return max(0, round((moment - datetime.now(UTC)).total_seconds() * 1000))


def _own_words(body: bytes, secrets: tuple[str, ...]) -> str:
    """Return the message in any vendor's error body, without the secrets."""
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        return ""
    if isinstance(found, list) and found:
        found = found[0]
    if not isinstance(found, dict):
        return ""
    words = found.get("error") or found.get("message") or found.get("Message")
    if isinstance(words, dict):
        words = words.get("message")
    return without_secrets(words, secrets)[:MAX_MESSAGE] if isinstance(words, str) else ""


def without_secrets(text: str, secrets: tuple[str, ...]) -> str:
    """Return `text` with `***` in the place of each secret."""
    for secret in secrets:
        text = text.replace(secret, "***")
    return text
