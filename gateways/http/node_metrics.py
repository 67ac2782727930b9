"""The figures of the node's other processes, added up over those that were heard lately.

A gauge says how things are, not how often something happened: of several processes, and of one
that was restarted, the newest word counts. Only what each process has its own part of is summed.
"""

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
SUMMED_GAUGES: Final = frozenset({"agentos_queue_depth"})
Key = tuple[str, tuple[tuple[str, str], ...]]


class NodeMetrics(Collector):
    """Listens to what handlers, executors and the others say of themselves."""

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
        """Return a figure without labels, of all processes; 0 while none has said it."""
        found = self._figures().get(name)
        return 0.0 if found is None else sum(found[1].values())

    def collect(self) -> Iterable[Metric]:
        """Return the sums by family and labels."""
        for metric, figures in self._figures().values():
            for (sample, labels), value in figures.items():
                if not sample.endswith("_created"):
                    metric.add_sample(sample, dict(labels), value)
            yield metric

    def _figures(self) -> dict[str, tuple[Metric, dict[Key, float]]]:
        """Return each family with its figures, the words of all processes in the order heard."""
        found: dict[str, tuple[Metric, dict[Key, float]]] = {}
        for _, said in sorted(self._said.values(), key=lambda heard: heard[0]):
            for name, kind, text, samples in said:
                is_sum = kind != "gauge" or name in SUMMED_GAUGES
                _, figures = found.setdefault(name, (Metric(name, text, kind), {}))
                for sample, labels, value in samples:
                    key = (sample, tuple(labels.items()))
                    figures[key] = figures.get(key, 0.0) + value if is_sum else value
        return found
