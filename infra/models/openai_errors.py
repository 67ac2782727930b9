"""What a refused request of an OpenAI-compatible server means in the contract's errors."""

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

import aiohttp
from pydantic_core import from_json

from agentos.domain.errors import AgentOSError, InvalidRequestError, ProviderError

MAX_ERROR_BYTES: Final = 64 * 1024
MAX_MESSAGE: Final = 300


async def error_of_status(response: aiohttp.ClientResponse, key: str | None) -> AgentOSError:
    """Return the error that a status other than 200 stands for.

    404 is an unknown model, 429 and 5xx may be tried again, everything else may not. The
    server's own words are cut to 300 characters, and left out where they are about the key.
    """
    status = response.status
    message = "" if status in (401, 403) else await _own_words(response, key)
    if status == 404:
        return InvalidRequestError(
            "the backend has no such model", backend="openai", status=status, reason=message
        )
    return ProviderError(
        f"the model backend answered {status}",
        status=status,
        retryable=status == 429 or status >= 500,
        **({"reason": message} if message else {}),
    )


def retry_after_ms(headers: Mapping[str, str]) -> int | None:
    """Return what `retry-after-ms` or `Retry-After` (seconds or a date) says, if anything."""
    for name, scale in (("retry-after-ms", 1.0), ("Retry-After", 1000.0)):
        text = headers.get(name, "").strip()
        if text.replace(".", "", 1).isdecimal() and text.isascii() and len(text) < 16:
            return round(float(text) * scale)
    try:
        moment = parsedate_to_datetime(headers.get("Retry-After", ""))
    except ValueError:
        return None
    if moment.tzinfo is None:
        return None
    return max(0, round((moment - datetime.now(UTC)).total_seconds() * 1000))


async def _own_words(response: aiohttp.ClientResponse, key: str | None) -> str:
    try:
        body = await response.content.read(MAX_ERROR_BYTES)
        found = from_json(body)
        error = found.get("error") if isinstance(found, dict) else None
        words = error.get("message") if isinstance(error, dict) else error
    except (aiohttp.ClientError, ValueError):
        return ""
    if not isinstance(words, str):
        return ""
    return (words.replace(key, "***") if key else words)[:MAX_MESSAGE]
