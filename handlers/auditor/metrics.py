"""What the auditor counts."""

from typing import Any

import orjson
from prometheus_client import CollectorRegistry, Counter, Gauge


class AuditorMetrics:
    """A registry, and how its figures travel: a JSON list of metric families."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self.records = Counter("agentos_audit_records", "Audit records written", registry=registry)
        self.checkpoints = Counter(
            "agentos_audit_checkpoints", "Checkpoints signed", registry=registry
        )
        self.position = Gauge(
            "agentos_audit_position",
            "Log position up to which every cause has its record",
            registry=registry,
        )
        self.broken = Gauge(
            "agentos_audit_chains_broken",
            "Chains that do not hold and are signed no more",
            registry=registry,
        )

    def snapshot(self) -> bytes:
        """Return the figures as JSON: `[[name, type, help, [[sample, labels, value]]]]`."""
        families: list[Any] = [
            [m.name, m.type, m.documentation, [[s.name, s.labels, s.value] for s in m.samples]]
            for m in self.registry.collect()
        ]
        return orjson.dumps(families)
