"""OpenTelemetry's GenAI client metrics, as Prometheus names and labels.

Kept as plain counts and made into families only when somebody looks: a call costs microseconds.
Labels are names of the catalog and codes; whatever a caller made up is `other`.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

from agentos.domain.models.catalog import TIERS, Catalog
from agentos.domain.models.provider import Providers
from agentos.domain.models.published import CatalogAggregate
from agentos.domain.tracing.call_spans import OPERATIONS
from agentos.domain.tracing.span import OURS
from agentos.gateways.http.series import Series
from agentos.gateways.model_policy.model_metrics import OTHER

# The boundaries that the conventions give.
TOKENS: Final = tuple(4**power for power in range(14))
SECONDS: Final = tuple(0.01 * 2**power for power in range(14))
COMMON: Final = (
    "gen_ai_operation_name",
    "gen_ai_provider_name",
    "gen_ai_request_model",
    "gen_ai_response_model",
)
KEPT: Final = 1_000
Names = tuple[str, ...]


class GenAiMetrics(Collector):
    """Counts model calls. `catalog` gives the one that holds, `None` while it is being read."""

    def __init__(self, catalog: Callable[[], CatalogAggregate | None]) -> None:
        self._catalog = catalog
        self._version = -1
        self._providers = Providers(Catalog())
        self._models: frozenset[str] = frozenset()
        self._refs: frozenset[str] = frozenset()
        self._durations: dict[Names, Series] = {}
        self._tokens: dict[Names, tuple[Series, Series]] = {}
        self._known: dict[Names, Names] = {}

    def called(self, usage: Mapping[str, Any]) -> None:
        """Count one call that ended, by the fields of its `UsageRecorded`."""
        catalog = self._catalog()
        if catalog is not None and catalog.version != self._version:
            self._learn(catalog)
        names = self._names(usage)
        error, used = _error_type(usage), usage["usage"]
        self._of(self._durations, (*names, error)).observe(usage["latency_ms"] / 1000)
        if not error or used["total_tokens"]:
            series = self._tokens.get(names)
            if series is None:
                series = self._tokens[names] = (Series(TOKENS), Series(TOKENS))
            series[0].observe(used["input_tokens"])
            series[1].observe(used["output_tokens"])

    def collect(self) -> Iterable[HistogramMetricFamily]:
        """Return both families."""
        duration = HistogramMetricFamily(
            "gen_ai_client_operation_duration_seconds",
            "GenAI operation duration",
            labels=(*COMMON, "error_type"),
        )
        for names, series in self._durations.items():
            duration.add_metric(names, series.buckets(), series.total)
        tokens = HistogramMetricFamily(
            "gen_ai_client_token_usage",
            "Number of input and output tokens used",
            labels=(*COMMON, "gen_ai_token_type"),
        )
        for names, pair in self._tokens.items():
            for kind, series in zip(("input", "output"), pair, strict=True):
                tokens.add_metric((*names, kind), series.buckets(), series.total)
        return (duration, tokens)

    @staticmethod
    def _of(found: dict[Names, Series], names: Names) -> Series:
        series = found.get(names)
        if series is None:
            series = found[names] = Series(SECONDS)
        return series

    def _names(self, usage: Mapping[str, Any]) -> Names:
        """Return the labels of a call, worked out once for as long as the catalog holds."""
        asked = (usage["operation"], usage["backend"], usage["model"], usage["model_ref"])
        names = self._known.get(asked)
        if names is None:
            if len(self._known) >= KEPT:  # callers may ask for as many names as they like
                self._known.clear()
            names = self._known[asked] = self._shown(*asked)
        return names

    def _shown(self, operation: str, backend: str, model: str, ref: str) -> Names:
        known = f"{backend}/{model}" in self._models
        return (
            OPERATIONS[operation],
            self._providers.of(backend, model) if backend else OURS,
            ref if ref in self._refs else OTHER,
            model if known else OTHER if backend else "",
        )

    def _learn(self, catalog: CatalogAggregate) -> None:
        document = catalog.document
        self._version = catalog.version
        self._known.clear()
        self._providers = Providers(document)
        self._models = frozenset(model.model_id for model in document.models)
        names = {model.name for model in document.models} | {r.name for r in document.routes}
        self._refs = self._models | names | {f"tier:{tier}" for tier in TIERS}


def _error_type(usage: Mapping[str, Any]) -> str:
    """Return the `error.type` of a call without a whole answer, as its span has it."""
    if usage["status"] == "ok":
        return ""
    error = usage["error"]
    return str(error["code"] if error else usage["status"])
