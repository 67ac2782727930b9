"""The time of day and new ids, as the machine gives them."""

import base64
import os
import time
from typing import Final

from agentos.domain.ids import CROCKFORD, crockford

POOLED_IDS: Final = 512
ENTROPY_BYTES: Final = 10
ENTROPY_CHARACTERS: Final = 16
TIME_CHARACTERS: Final = 10
TO_CROCKFORD: Final = bytes.maketrans(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", CROCKFORD.encode())


class SystemClock:
    """The machine's clock."""

    def now_ms(self) -> int:
        """Return the milliseconds since the epoch."""
        return time.time_ns() // 1_000_000


class SystemIds:
    """New ids as `ids.make_id` forms them, with 80 bits from the system's random source.

    Entropy is fetched and spelled out for many ids at once, the time once a millisecond:
    a run makes a dozen ids.
    """

    def __init__(self) -> None:
        self._pool = ""
        self._at = 0
        self._ms = -1
        self._time = ""

    def __call__(self, prefix: str) -> str:
        """Return a new id `<prefix>_<26 Crockford characters>`, sortable by millisecond."""
        if self._at >= len(self._pool):
            noise = os.urandom(POOLED_IDS * ENTROPY_BYTES)
            self._pool = base64.b32encode(noise).translate(TO_CROCKFORD).decode()
            self._at = 0
        ms = time.time_ns() // 1_000_000
        if ms != self._ms:
            self._ms = ms
            self._time = crockford(ms, TIME_CHARACTERS)
        at = self._at
        self._at = at + ENTROPY_CHARACTERS
        return f"{prefix}_{self._time}{self._pool[at : self._at]}"
