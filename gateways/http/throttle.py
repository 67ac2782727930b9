"""How often one address may fail to identify itself before it has to wait."""

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from agentos.domain.errors import RateLimitedError

RATE: Final = 10.0
BURST: Final = 50
MAX_SOURCES: Final = 10_000


class Throttle:
    """A leaky bucket of failures per address (GCRA: one number each), in bounded memory.

    `rate` is failures a second, `burst` how many may come at once. Only failures fill it, and
    only credentials that are not known yet are asked about it.
    """

    def __init__(
        self,
        *,
        rate: float = RATE,
        burst: int = BURST,
        max_sources: int = MAX_SOURCES,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._interval = 1 / rate
        self._tolerance = (burst - 1) / rate
        self._max_sources = max_sources
        self._now = now
        self._empty_at: OrderedDict[str, float] = OrderedDict()

    def check(self, source: str) -> None:
        """Raise `RateLimitedError` while the address has no failure left."""
        empty_at = self._empty_at.get(_network(source))
        if empty_at is None:
            return
        wait_s = empty_at - self._now() - self._tolerance
        if wait_s > 0:
            raise RateLimitedError(
                "too many failed attempts from this address", retry_after_ms=int(wait_s * 1000) + 1
            )

    def failed(self, source: str) -> None:
        """Note one failure; the address that was quiet longest is forgotten when there are many."""
        network, now = _network(source), self._now()
        self._empty_at[network] = max(self._empty_at.get(network, now), now) + self._interval
        self._empty_at.move_to_end(network)
        if len(self._empty_at) > self._max_sources:
            self._empty_at.popitem(last=False)


def _network(source: str) -> str:
    """Return whom an address stands for: a network of IPv6 is one customer's, not 2^64."""
    if ":" not in source:
        return source
    try:
        packed = ipaddress.IPv6Address(source.partition("%")[0]).packed
    except ValueError:
        return source
    return packed[:8].hex()
