"""The figures of the node's other processes, added up over those that were heard lately."""

import asyncio
from collections.abc import Iterable
from typing import Any, Final

import orjson
from prometheus_client import Metric
from prometheus_client.registry import Collector

from agentos.domain.ports import Signals
from agentos.domain.subjects import ALL_METRICS
from agentos.gateways.http.readiness import listen_for_ever

LATELY_S: Final = 15.0


class NodeMetrics(Collector):
    """Listens to what handlers, executors and projectors say of themselves."""

    def __init__(self, signals: Signals) -> None:
        self._signals = signals
        self._said: dict[str, tuple[float, list[Any]]] = {}

    async def run(self) -> None:
        """Listen until cancelled."""
        await listen_for_ever(self._signals, ALL_METRICS, self._on_figures)

    def _on_figures(self, subject: str, data: bytes) -> None:
        now = asyncio.get_running_loop().time()
        self._said[subject] = (now, orjson.loads(data))
        if any(now - at > LATELY_S for at, _ in self._said.values()):
            self._said = {s: said for s, said in self._said.items() if now - said[0] <= LATELY_S}

    def total(self, name: str) -> float:
        """Return a figure without labels, added up over the processes."""
        return sum(
            float(value)
            for _, said in self._said.values()
            for family, _, _, samples in said
            if family == name
            for _, _, value in samples
        )

    def collect(self) -> Iterable[Metric]:
        """Return the sums by family and labels."""
        families: dict[str, Metric] = {}
        sums: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
        for _, said in self._said.values():
            for name, kind, text, samples in said:
                families.setdefault(name, Metric(name, text, kind))
                totals = sums.setdefault(name, {})
                for sample, labels, value in samples:
                    key = (sample, tuple(labels.items()))
                    totals[key] = totals.get(key, 0.0) + value
        for name, metric in families.items():
            for (sample, labels), value in sums[name].items():
                if not sample.endswith("_created"):
                    metric.add_sample(sample, dict(labels), value)
            yield metric
