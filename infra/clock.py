"""The time of day and new ids, as the machine gives them."""

import os
import time

from agentos.domain.ids import make_id

POOLED_IDS = 256
ENTROPY_BYTES = 10


class SystemClock:
    """The machine's clock."""

    def now_ms(self) -> int:
        """Return the milliseconds since the epoch."""
        return time.time_ns() // 1_000_000


class SystemIds:
    """New ids with 80 bits from the system's random source, fetched for many ids at once."""

    def __init__(self) -> None:
        self._pool = b""
        self._at = 0

    def __call__(self, prefix: str) -> str:
        """Return a new id `<prefix>_<26 Crockford characters>`, sortable by millisecond."""
        if self._at >= len(self._pool):
            self._pool = os.urandom(POOLED_IDS * ENTROPY_BYTES)
            self._at = 0
        entropy = self._pool[self._at : self._at + ENTROPY_BYTES]
        self._at += ENTROPY_BYTES
        return make_id(prefix, time.time_ns() // 1_000_000, int.from_bytes(entropy, "big"))
