"""Moments as a person gives them to a command: a span back from now, or a time."""

import re
from typing import Final

from agentos.cli.api_client import WRONG_USAGE, end
from agentos.domain.times import rfc3339, to_ms
from agentos.infra.clock import SystemClock

AGO: Final = re.compile(r"^([0-9]{1,6})([smhdw])$")
MS: Final = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}


def since_ms(text: str) -> int:
    """Return the epoch milliseconds of `30m`, `7d` or an RFC 3339 time; ends a command else."""
    if (ago := AGO.match(text)) is not None:
        return max(0, SystemClock().now_ms() - int(ago[1]) * MS[ago[2]])
    try:
        time_ms = to_ms(text)
        rfc3339(time_ms)
    except (ValueError, OverflowError, OSError):
        end(f"--since {text}: neither a span such as 7d nor a time", WRONG_USAGE)
    return time_ms
