"""What a projector counts, in the form in which gateways add it up."""

from typing import Any

from prometheus_client import CollectorRegistry, Counter
from pydantic_core import to_json

from agentos.projections.drift import Drift


class ProjectorMetrics:
    """The figures of one projector process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._drift = Counter(
            "agentos_projection_drift",
            "Times that rows of the read model were found not to be what the log says",
            ("projection",),
            registry=self.registry,
        )

    def drifted(self, drift: Drift) -> None:
        """Count a drift."""
        self._drift.labels(drift.projection).inc()

    def snapshot(self) -> bytes:
        """Return the figures as JSON: `[[name, type, help, [[sample, labels, value]]]]`."""
        families: list[Any] = [
            [m.name, m.type, m.documentation, [[s.name, s.labels, s.value] for s in m.samples]]
            for m in self.registry.collect()
        ]
        return to_json(families)
