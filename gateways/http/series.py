"""A histogram's counts without locks, for what is counted on every model call.

One event loop counts and shows them, so nothing has to be guarded; the library's own histogram
takes two locks and looks through its buckets for each value.
"""

from bisect import bisect_left
from collections.abc import Iterable
from math import inf

from prometheus_client import CollectorRegistry
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector


class Series:
    """One histogram's counts."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count a value in the first bucket whose bound it does not pass."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def buckets(self) -> list[tuple[str, float]]:
        """Return the cumulative counts by their bounds as text."""
        found, so_far = [], 0
        for bound, count in zip((*self.bounds, inf), self.counts, strict=True):
            so_far += count
            found.append(("+Inf" if bound == inf else str(float(bound)), float(so_far)))
        return found


class PlainHistogram(Collector):
    """A histogram without labels."""

    def __init__(
        self, name: str, text: str, bounds: tuple[float, ...], registry: CollectorRegistry
    ) -> None:
        self._name, self._text = name, text
        self._series = Series(bounds)
        self.observe = self._series.observe
        registry.register(self)

    def collect(self) -> Iterable[HistogramMetricFamily]:
        """Return the family."""
        series = self._series
        yield HistogramMetricFamily(
            self._name, self._text, buckets=series.buckets(), sum_value=series.total
        )
