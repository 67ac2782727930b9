"""What the tracer counts, in the form in which gateways add it up."""

from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge
from pydantic_core import to_json

REASONS: Final = ("too_old", "refused", "rejected", "unreadable")


class TracerMetrics:
    """The figures of one tracer process."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self.sent = Counter("agentos_otel_spans_sent", "Spans a collector took", registry=registry)
        self._dropped = Counter(
            "agentos_otel_spans_dropped",
            "Spans that no collector has (unreadable: commits)",
            ("reason",),
            registry=registry,
        )
        self.collector_up = Gauge(
            "agentos_otel_collector_up", "1 while the collector takes spans", registry=registry
        )
        self.lag = Gauge(
            "agentos_otel_lag_events", "Log positions not looked at yet", registry=registry
        )
        for reason in REASONS:
            self._dropped.labels(reason)

    def dropped(self, reason: str, count: int) -> None:
        """Count spans that are lost."""
        if count:
            self._dropped.labels(reason).inc(count)

    def snapshot(self) -> bytes:
        """Return the figures as JSON: `[[name, type, help, [[sample, labels, value]]]]`."""
        families: list[Any] = [
            [m.name, m.type, m.documentation, [[s.name, s.labels, s.value] for s in m.samples]]
            for m in self.registry.collect()
        ]
        return to_json(families)
