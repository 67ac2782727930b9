"""The `Run` object of a run that is executed elsewhere, folded from its events one by one.

Tolerant on purpose: a peer may be newer than we are, and its events are not ours to refuse.
"""

from collections.abc import Mapping
from typing import Any, Final

from agentos.domain.run.events import (
    FINAL_TYPES,
    ModelCompleted,
    ModelRequested,
    RunCreated,
    RunStarted,
    StepStarted,
    ToolCallRequested,
)

STATUSES: Final = frozenset({"queued", "running", "completed", "failed", "canceled"})
FINAL_STATUS: Final = {name: name.rpartition(".")[2] for name in FINAL_TYPES}
MOST: Final = 10**12
LONGEST_INTEGER: Final = 2**63


def known_status(said: object) -> str:
    """Return what a peer says of a run's status; what is none is that of a new run."""
    return said if isinstance(said, str) and said in STATUSES else "queued"


def final_status(inner: Mapping[str, Any]) -> str:
    """Return the status that a run's last event leaves it with: its name says so."""
    return FINAL_STATUS[inner["type"]]


def new_view(tenant_id: str, run_id: str, link: Mapping[str, Any]) -> dict[str, Any]:
    """Return the run as the peer's first answer has it; `link` is a `RunLinked` payload."""
    view: dict[str, Any] = {
        "tenant_id": tenant_id,
        "agent_id": link["agent_id"],
        "run_id": run_id,
        "status": known_status(link["status"]),
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
        view["status"] = final_status(inner)
        view["completed_at"] = inner["time"]
        view["output"] = _shown(payload.get("output"))
        view["error"] = _shown(payload.get("error"))
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
        _summary(view)["tokens_total"] += int(_counted(tokens))
        _summary(view)["cost_usd"] += _counted(cost)


def _counted(number: object) -> float:
    """Return a peer's number if it can be one of tokens or dollars and be added up, else 0."""
    if isinstance(number, bool) or not isinstance(number, int | float):
        return 0
    return number if 0 <= number <= MOST else 0  # neither infinite nor none


def _shown(value: Any) -> Any:
    """Return a value as an answer can show it: a number that JSON readers do not take is `null`."""
    if isinstance(value, dict):
        return {name: _shown(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_shown(part) for part in value]
    if isinstance(value, int) and not -LONGEST_INTEGER <= value < LONGEST_INTEGER:
        return None
    return value


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
