"""What an aggregate's state looks like to people. Never a secret, a hash of one, or a lock."""

from typing import Any

from agentos.domain.admission.admission import Admission
from agentos.domain.admission.ledger import Ledger
from agentos.domain.agent.agent import Agent
from agentos.domain.aggregate import Aggregate
from agentos.domain.run.run import Run
from agentos.domain.subjects import StreamRef
from agentos.domain.tenant.tenant import Tenant
from agentos.domain.times import rfc3339

KINDS = {"run": Run, "tenant": Tenant, "agent": Agent}


def empty(ref: StreamRef) -> Aggregate:
    """Return the aggregate of a stream before its first event; `KeyError` for another kind."""
    if ref.kind == "quota":
        return Admission(ref) if ref.aggregate_id == "runs" else Ledger(ref)
    return KINDS[ref.kind](ref)


def state_of(aggregate: Aggregate) -> dict[str, Any]:
    """Return the state as JSON; empty before the first event."""
    if aggregate.sequence == 0:
        return {}
    if isinstance(aggregate, Run):
        return run_state(aggregate)
    if isinstance(aggregate, Admission):
        active = {run_id: rfc3339(at) for run_id, at in aggregate.active.items()}
        return {"resource": "runs", "active": len(active), "runs": active}
    if isinstance(aggregate, Ledger):
        return {
            "resource": aggregate.resource,
            "holds": {i: hold.model_dump() for i, hold in aggregate.holds.items()},
            "counters": {n: c.model_dump() for n, c in aggregate.counters.items()},
        }
    if isinstance(aggregate, Tenant):
        return {**aggregate.view(), "partition": aggregate.partition}
    assert isinstance(aggregate, Agent)  # noqa: S101 - narrows to what `empty` makes
    return {**aggregate.view(), "versions": list(aggregate.versions)}


def run_state(run: Run) -> dict[str, Any]:
    """Return a run's view, and what its holder knows besides."""
    calls = [("model", i, call) for i, call in ([run.open_model] if run.open_model else [])]
    calls += [("tool", i, call) for i, call in run.open_tools.items()]
    return {
        **run.view(),
        "attempt": run.attempt,
        "worker_id": run.worker_id,
        "steps_total": run.steps_total,
        "tool_calls_total": run.tool_calls_total,
        "model_calls_total": run.model_calls_total,
        "tokens_total": run.tokens_total,
        "cost_usd": run.cost_usd,
        "cancel_requested_by": run.cancel.by if run.cancel else None,
        "open_calls": [
            {"kind": kind, "id": i, "name": call.name, "since": rfc3339(call.started_ms)}
            for kind, i, call in calls
        ],
        "waiting": run.is_waiting,
        "waited_ms": run.waited_ms,
        "approvals": [approval.view() for approval in run.approvals.all.values()],
    }
