"""What routing counts. Labels are names of the catalog only: any other model is `other`."""

import contextlib
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from agentos.domain.models.plan import Target
from agentos.domain.ports import Usage
from agentos.gateways.http.series import PlainCounter

OTHER: Final = "other"
BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class ModelMetrics:
    """The figures of backends, attempts and shadow calls. `is_listed` says what has a name."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = PlainCounter(
            "agentos_model_requests",
            "Attempts to call a model, by how they ended",
            ("backend", "model", "outcome"),
            registry,
        )
        self._backend_up = Gauge(
            "agentos_backend_up",
            "1 while the backend's health probe is answered",
            ("backend",),
            registry=registry,
        )
        self._shadow_requests = Counter(
            "agentos_model_shadow_requests",
            "Copies of calls sent to a shadow model, by how they ended",
            ("backend", "model", "outcome"),
            registry=registry,
        )
        self._shadow_seconds = Histogram(
            "agentos_model_shadow_seconds",
            "Time of a shadow model's answers",
            ("backend", "model"),
            buckets=BUCKETS,
            registry=registry,
        )
        self._shadow_tokens = Counter(
            "agentos_model_shadow_tokens",
            "Tokens of shadow calls; nobody is charged for them",
            ("backend", "model", "direction"),
            registry=registry,
        )
        self.listed: frozenset[str] = frozenset()

    def attempt(self, target: Target, outcome: str) -> None:
        """Count one attempt; `outcome` is `ok` or an error's code."""
        self._requests.labels(target.backend, self._name(target), outcome).inc()

    def backend_is_up(self, backend: str, *, up: bool) -> None:
        """Say how the last health probe went."""
        self._backend_up.labels(backend).set(1 if up else 0)

    def forget_backend(self, backend: str) -> None:
        """Say nothing more of a backend that is out of the catalog."""
        with contextlib.suppress(KeyError):
            self._backend_up.remove(backend)

    def shadow(
        self, target: Target, outcome: str, seconds: float | None = None, usage: Usage | None = None
    ) -> None:
        """Count one shadow call."""
        names = (target.backend, self._name(target))
        self._shadow_requests.labels(*names, outcome).inc()
        if seconds is not None:
            self._shadow_seconds.labels(*names).observe(seconds)
        if usage is not None:
            self._shadow_tokens.labels(*names, "input").inc(usage.input_tokens)
            self._shadow_tokens.labels(*names, "output").inc(usage.output_tokens)

    def _name(self, target: Target) -> str:
        return target.model if target.model_id in self.listed else OTHER
