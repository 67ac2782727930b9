"""Every projection of this program, in one table."""

from collections.abc import Callable
from functools import partial
from typing import Final

from agentos.projections.agents.projector import AgentsProjector
from agentos.projections.audit_records.projector import AuditRecordsProjector
from agentos.projections.model_calls.projector import DAYS, ModelCallsProjector
from agentos.projections.open_forwards.projector import OpenForwardsProjector
from agentos.projections.projector import Projector
from agentos.projections.remote_runs.projector import RemoteRunsProjector
from agentos.projections.run_steps.projector import RunStepsProjector
from agentos.projections.runs.projector import RunsProjector
from agentos.projections.usage_by_window.projector import UsageByWindowProjector

PROJECTIONS: Final[dict[str, Callable[[], Projector]]] = {
    "runs": RunsProjector,
    "run_steps": RunStepsProjector,
    "agents": AgentsProjector,
    "audit_records": AuditRecordsProjector,
    "remote_runs": RemoteRunsProjector,
    "open_forwards": OpenForwardsProjector,
    "usage_by_window": UsageByWindowProjector,
    "model_calls": ModelCallsProjector,
}


def make_projectors(
    names: tuple[str, ...] = tuple(PROJECTIONS), *, model_calls_days: int = DAYS
) -> list[Projector]:
    """Return fresh projectors; `KeyError` for a name that there is none of.

    Single model calls are kept for `model_calls_days`.
    """
    model_calls = partial(ModelCallsProjector, model_calls_days)
    return [model_calls() if name == "model_calls" else PROJECTIONS[name]() for name in names]
