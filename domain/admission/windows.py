"""Calendar windows in UTC: when the one that holds a moment began, and when the next begins."""

from datetime import UTC, datetime, timedelta
from typing import Final, Literal

Span = Literal["minute", "hour", "day", "month", "ever"]
SPANS: Final[tuple[Span, ...]] = ("minute", "hour", "day", "month", "ever")
LENGTH_MS: Final = {"minute": 60_000, "hour": 3_600_000, "day": 86_400_000}


def window_start(span: Span, time_ms: int) -> int:
    """Return when the window that holds `time_ms` began (epoch ms; `ever` began at 0)."""
    if span == "ever":
        return 0
    if span == "month":
        first = datetime.fromtimestamp(time_ms / 1000, UTC).replace(
            day=1, hour=0, minute=0, second=0, microsecond=0
        )
        return int(first.timestamp()) * 1000
    return time_ms - time_ms % LENGTH_MS[span]


def window_end(span: Span, time_ms: int) -> int | None:
    """Return when the next window begins, `None` for `ever`."""
    if span == "ever":
        return None
    start = window_start(span, time_ms)
    if span == "month":
        later = datetime.fromtimestamp(start / 1000, UTC) + timedelta(days=32)
        return int(later.replace(day=1).timestamp()) * 1000
    return start + LENGTH_MS[span]
