"""What handlers and executors count. Each process says its figures; a gateway shows them all."""

import heapq
from collections.abc import Iterable
from typing import Any, Final

import orjson
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from agentos.domain.envelope import Event
from agentos.domain.retention.retention import RetentionApplied
from agentos.domain.run.events import (
    RunCanceled,
    RunCompleted,
    RunFailed,
    StepCompleted,
    ToolCallCompleted,
)
from agentos.domain.run.run import Run

RANKS: Final = 10
FAST: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1, 5)
LONG: Final = (0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 1800)


class ProcessMetrics:
    """A registry, and how its figures travel: a JSON list of metric families."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.append_seconds = Histogram(
            "agentos_log_append_seconds",
            "Time from sending a commit to its acknowledgement",
            buckets=FAST,
            registry=self.registry,
        )
        self.runs = Counter("agentos_runs", "Runs that ended", ("status",), registry=self.registry)

    def snapshot(self) -> bytes:
        """Return the figures as JSON: `[[name, type, help, [[sample, labels, value]]]]`."""
        families: list[Any] = [
            [m.name, m.type, m.documentation, [[s.name, s.labels, s.value] for s in m.samples]]
            for m in self.registry.collect()
        ]
        return orjson.dumps(families)


class HandlerMetrics(ProcessMetrics):
    """What a handler process counts."""

    def __init__(self) -> None:
        super().__init__()
        self.runs_active = Gauge(
            "agentos_runs_active", "Runs that are not final", registry=self.registry
        )
        self.queue_depth = Gauge(
            "agentos_queue_depth",
            "Runs that wait for a slot of their tenant",
            ("priority",),
            registry=self.registry,
        )
        self._top_tenant_runs = Gauge(
            "agentos_top_tenant_runs",
            "Runs that are not final, of the tenants that have the most of them",
            ("rank",),
            registry=self.registry,
        )
        self.rank_tenants(())
        self.quota_denied = Counter(
            "agentos_quota_denied", "Refused by a quota", ("kind",), registry=self.registry
        )
        self.retention = RetentionMetrics(self.registry)

    def rank_tenants(self, runs: Iterable[int]) -> None:
        """Take how many runs each tenant has; which tenant it is, no label says."""
        most = heapq.nlargest(RANKS, runs)
        for rank in range(RANKS):
            self._top_tenant_runs.labels(str(rank + 1)).set(most[rank] if rank < len(most) else 0)


class RetentionMetrics:
    """What retention counts, in the registry of its process."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self._items = Counter(
            "agentos_retention_items",
            "What retention let go: runs, or events of usage and quotas",
            ("kind",),
            registry=registry,
        )
        self._commits = Counter(
            "agentos_retention_commits",
            "Commits that retention removed from the log",
            ("kind",),
            registry=registry,
        )
        self.failures = Counter(
            "agentos_retention_failures", "Rounds of retention that failed", registry=registry
        )

    def applied(self, done: RetentionApplied) -> None:
        """Count what went."""
        self._items.labels(done.kind).inc(done.items)
        self._commits.labels(done.kind).inc(done.commits)


class ExecutorMetrics(ProcessMetrics):
    """What an executor counts, from the events that it has written."""

    def __init__(self) -> None:
        super().__init__()
        registry = self.registry
        self._run_seconds = Histogram(
            "agentos_run_duration_seconds", "From start to end", buckets=LONG, registry=registry
        )
        self._step_seconds = Histogram(
            "agentos_step_duration_seconds", "One step", ("kind",), buckets=LONG, registry=registry
        )
        self._tool_seconds = Histogram(
            "agentos_tool_duration_seconds", "One call", ("tool",), buckets=LONG, registry=registry
        )
        self._tool_errors = Counter(
            "agentos_tool_errors", "Tool calls that failed", registry=registry
        )

    def written(self, run: Run, events: Iterable[Event]) -> None:
        """Count what a commit says."""
        for event in events:
            payload = event.payload
            if isinstance(payload, StepCompleted):
                self._step_seconds.labels(payload.step_kind).observe(payload.duration_ms / 1000)
            elif isinstance(payload, ToolCallCompleted):
                self._tool(payload)
            elif isinstance(payload, RunCompleted | RunFailed | RunCanceled):
                self.runs.labels(payload.status).inc()
                began = run.started_at or event.time
                self._run_seconds.observe((event.time - began) / 1000)

    def _tool(self, payload: ToolCallCompleted) -> None:
        refused = payload.error is not None and payload.error.code == "forbidden"
        if not refused:  # a refused call may name any tool: no label for it
            self._tool_seconds.labels(payload.tool_id).observe(payload.duration_ms / 1000)
        if payload.status == "error":
            self._tool_errors.inc()
