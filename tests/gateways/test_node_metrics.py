"""The figures of other processes, shown by the gateway."""

from prometheus_client import CollectorRegistry, generate_latest

from agentos.domain.subjects import metrics
from agentos.gateways.http.node_metrics import NodeMetrics
from agentos.handlers.metrics import ExecutorMetrics, HandlerMetrics
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


async def test_of_how_things_are_the_newest_word_counts() -> None:
    """Two handlers see the same runs; one that was restarted is heard under another name."""
    node = NodeMetrics(MemorySignals())
    registry = CollectorRegistry()
    registry.register(node)
    for worker, runs, waiting in (("wrk_1", 7, 2), ("wrk_2", 6, 3), ("wrk_3", 5, 4)):
        figures = HandlerMetrics()
        figures.runs_active.set(runs)
        figures.queue_depth.labels("high").set(waiting)
        node._on_figures(metrics("handlers", worker), figures.snapshot())
    text = generate_latest(registry).decode()
    assert "agentos_runs_active 5.0" in text
    assert 'agentos_queue_depth{priority="high"} 9.0' in text  # each has lines of its own
    assert node.total("agentos_runs_active") == 5.0
    assert node.total("agentos_nobody_says_this") == 0.0
