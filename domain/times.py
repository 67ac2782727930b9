"""Time as the domain sees it: integer milliseconds since the epoch, RFC 3339 outside."""

from datetime import UTC, datetime
from functools import lru_cache


def rfc3339(ms: int) -> str:
    """Return `ms` (milliseconds since the epoch) as RFC 3339 UTC with milliseconds and `Z`."""
    seconds, rest = divmod(ms, 1000)
    return f"{_seconds(seconds)}.{rest:03d}Z"


@lru_cache(maxsize=1024)
def _seconds(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}"


def to_ms(text: str) -> int:
    """Return the milliseconds since the epoch of an RFC 3339 time; `ValueError` if it is none."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("a time needs an offset or Z")
    return round(moment.timestamp() * 1000)
