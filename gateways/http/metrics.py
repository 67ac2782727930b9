"""What the doors count. No label ever holds a tenant or an id."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from agentos.gateways.http.series import PlainCounter, PlainHistogram, Series, Tally

METHODS: Final = frozenset("GET POST PUT PATCH DELETE HEAD OPTIONS".split())
BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60)
FAST: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1)
DECISIONS: Final = ("allowed", "blocked", "redacted")
Key = tuple[str, str, str, int]


class Metrics:
    """The figures of one gateway process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = PlainCounter(
            "agentos_http_requests",
            "HTTP requests answered",
            ("service", "route", "method", "code"),
            self.registry,
        )
        self._seconds = PlainHistogram(
            "agentos_http_request_duration_seconds",
            "Time from the request's head to the end of its answer",
            ("service", "route", "method"),
            BUCKETS,
            self.registry,
        )
        self._auth_failures = Counter(
            "agentos_auth_failures",
            "Requests turned away for their credential or scope",
            ("reason",),
            registry=self.registry,
        )
        self._forward_failures = Counter(
            "agentos_federation_forward_failures",
            "Forwards that no peer took",
            ("reason",),
            registry=self.registry,
        )
        self.sse_streams = Gauge(
            "agentos_sse_streams", "Open event streams", registry=self.registry
        )
        tokens = PlainCounter(
            "agentos_model_tokens", "Tokens of model calls", ("direction",), self.registry
        )
        self._input_tokens, self._output_tokens = tokens.labels("input"), tokens.labels("output")
        self._model_cost = PlainCounter(
            "agentos_model_cost_usd", "Dollars that model calls cost", (), self.registry
        ).labels()
        self.model_overhead = PlainHistogram(
            "agentos_model_overhead_seconds",
            "Time of a call, answered at the first attempt, that was not the backend's",
            (),
            FAST,
            self.registry,
        ).labels()
        decisions = PlainCounter(
            "agentos_policy_decisions",
            "Model calls by what policy decided",
            ("decision",),
            self.registry,
        )
        self._policy_decisions = {decision: decisions.labels(decision) for decision in DECISIONS}
        self.usage_unrecorded = Counter(
            "agentos_usage_unrecorded",
            "Model calls without a usage event of their own",
            ("reason",),
            registry=self.registry,
        )
        self.on_model_call: list[Callable[[Mapping[str, Any]], None]] = []
        self.bodies_lost = Counter(
            "agentos_model_bodies_lost",
            "Bodies of direct model calls that were to be kept and are not",
            ("reason",),
            registry=self.registry,
        )
        self._known: dict[Key, tuple[Tally, Series]] = {}

    def count(
        self, service: str, route: str, method: str, code: int, seconds: float | None
    ) -> None:
        """Count one request; `code` 0 means that the client left before an answer."""
        key = (service, route, method, code)
        known = self._known.get(key)
        if known is None:
            shown = method if method in METHODS else "OTHER"
            known = self._known[service, route, shown, code] = (
                self._requests.labels(service, route, shown, str(code or 499)),
                self._seconds.labels(service, route, shown),
            )
        known[0].inc()
        if seconds is not None:
            known[1].observe(seconds)

    def forward_failed(self, reason: str) -> None:
        """Count a forward that failed."""
        self._forward_failures.labels(reason).inc()

    def auth_failed(self, reason: str) -> None:
        """Count a request that was turned away."""
        self._auth_failures.labels(reason).inc()

    def model_called(self, usage: Mapping[str, Any]) -> None:
        """Count one model call, by the fields of its `UsageRecorded`."""
        tokens, policy = usage["usage"], usage.get("policy")
        self._input_tokens.inc(tokens["input_tokens"])
        self._output_tokens.inc(tokens["output_tokens"])
        self._model_cost.inc(usage["cost_usd"])
        if policy is not None:
            self._policy_decisions[policy["decision"]].inc()
        for tell in self.on_model_call:
            tell(usage)

    def text(self) -> bytes:
        """Return everything in the Prometheus text format."""
        return generate_latest(self.registry)
