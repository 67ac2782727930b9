"""The `Run` object of a run that is executed elsewhere, folded from its events one by one.

Tolerant on purpose: a peer may be newer than we are, and its events are not ours to refuse.
"""

from collections.abc import Mapping
from typing import Any

from agentos.domain.run.events import (
    FINAL_TYPES,
    ModelCompleted,
    ModelRequested,
    RunCreated,
    RunStarted,
    StepStarted,
    ToolCallRequested,
)


def new_view(tenant_id: str, run_id: str, link: Mapping[str, Any]) -> dict[str, Any]:
    """Return the run as the peer's first answer has it; `link` is a `RunLinked` payload."""
    view: dict[str, Any] = {
        "tenant_id": tenant_id,
        "agent_id": link["agent_id"],
        "run_id": run_id,
        "status": link["status"],
        "created_at": link["created_at"],
        "events_url": f"/v1/federation/runs/{run_id}/events",
        "run_options": link["run_options"],
        "output": None,
        "error": None,
        "remote": {
            "stack_id": link["stack_id"],
            "run_id": run_id,
            "events_url": link["events_url"],
        },
    }
    if link.get("labels"):
        view["labels"] = link["labels"]
    if link.get("correlation_id"):
        view["correlation_id"] = link["correlation_id"]
    return view


def fold_view(view: dict[str, Any], inner: dict[str, Any]) -> None:
    """Let one more event happen to the run."""
    kind, payload = inner["type"], inner["payload"]
    if kind == RunCreated.TYPE:
        view["created_at"] = inner["time"]
    elif kind == RunStarted.TYPE:
        view["status"] = "running"
        view.setdefault("started_at", inner["time"])
        _summary(view)
    elif kind in FINAL_TYPES:
        view["status"] = str(payload.get("status", "completed"))
        view["completed_at"] = inner["time"]
        view["output"] = payload.get("output")
        view["error"] = payload.get("error")
    else:
        _count(view, kind, payload)


def _count(view: dict[str, Any], kind: str, payload: dict[str, Any]) -> None:
    if kind == StepStarted.TYPE and payload.get("step_kind") in ("model", "tool"):
        _summary(view)["steps_total"] += 1
    elif kind == ModelRequested.TYPE:
        _summary(view)["model_calls_total"] += 1
    elif kind == ToolCallRequested.TYPE:
        _summary(view)["tool_calls_total"] += 1
    elif kind == ModelCompleted.TYPE:
        usage, cost = payload.get("usage"), payload.get("cost_usd")
        tokens = usage.get("total_tokens") if isinstance(usage, dict) else None
        _summary(view)["tokens_total"] += tokens if isinstance(tokens, int) else 0
        _summary(view)["cost_usd"] += cost if isinstance(cost, int | float) else 0.0


def _summary(view: dict[str, Any]) -> dict[str, Any]:
    summary: dict[str, Any] = view.setdefault(
        "summary",
        {
            "steps_total": 0,
            "tool_calls_total": 0,
            "model_calls_total": 0,
            "tokens_total": 0,
            "cost_usd": 0.0,
        },
    )
    return summary
