"""The figures of other processes, shown by the gateway."""

from prometheus_client import CollectorRegistry, generate_latest

from agentos.domain.subjects import metrics
from agentos.gateways.http.node_metrics import NodeMetrics
from agentos.handlers.metrics import ExecutorMetrics
from agentos.infra.memory.signals import MemorySignals


async def test_the_figures_of_two_executors_are_added_up() -> None:
    node = NodeMetrics(MemorySignals())
    registry = CollectorRegistry()
    registry.register(node)
    for worker, runs in (("wrk_1", 2), ("wrk_2", 3)):
        figures = ExecutorMetrics()
        figures.runs.labels("completed").inc(runs)
        figures.append_seconds.observe(0.002)
        node._on_figures(metrics("executor", worker), figures.snapshot())
    text = generate_latest(registry).decode()
    assert 'agentos_runs_total{status="completed"} 5.0' in text
    assert 'agentos_log_append_seconds_bucket{le="0.0025"} 2.0' in text
    assert "agentos_log_append_seconds_count 2.0" in text
