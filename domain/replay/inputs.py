"""What the world said in one commit: the one part of a decision that is not recomputed.

The world is a caller (create, cancel), an executor's clock and ids, and the models and tools
that answered. What stands here is read from the commit; everything else in it follows.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from agentos.domain.aggregate import Moment
from agentos.domain.auth import SYSTEM_PRINCIPAL
from agentos.domain.envelope import Event, Origin
from agentos.domain.errors import InvalidStateTransitionError
from agentos.domain.run.approving import record_decision
from agentos.domain.run.events import (
    ErrorInfo,
    ModelCompleted,
    ModelRequested,
    RunCanceled,
    RunCancelRequested,
    RunCreated,
    RunFailed,
    RunStarted,
    StepStarted,
    ToolCallApprovalRequired,
    ToolCallApproved,
    ToolCallCompleted,
    ToolCallRejected,
)
from agentos.domain.run.run import Run

VERDICTS: Final = frozenset({"timeout", "interrupted", "internal_error"})
"""Why an executor ends a run of its own accord: it saw what the log cannot say."""


class RecordedIds:
    """Hands out the ids of a commit in the order in which they were asked for once."""

    def __init__(self, events: Sequence[Event]) -> None:
        self._ids = {
            "evt": deque(event.event_id for event in events),
            "stp": deque(e.step_id or "" for e in events if isinstance(e.payload, StepStarted)),
            "req": deque(
                e.payload.request_id for e in events if isinstance(e.payload, ModelRequested)
            ),
            "apr": deque(
                e.payload.approval_id
                for e in events
                if isinstance(e.payload, ToolCallApprovalRequired)
            ),
        }

    def __call__(self, prefix: str) -> str:
        """Return the next id; one that the log never had shows that the two have parted."""
        ids = self._ids.get(prefix)
        return ids.popleft() if ids else f"{prefix}_not_in_the_log"


def moment_of(events: Sequence[Event]) -> Moment:
    """Return the moment at which a commit was decided: its own time, ids and trace."""
    origin = Origin(events[0].trace.traceparent, SYSTEM_PRINCIPAL)
    return Moment(events[0].time, RecordedIds(events), origin)


def say(run: Run, events: Sequence[Event], at: Moment, start: Callable[[RunStarted], None]) -> bool:
    """Stage what the world said in the commit; whether an executor then decided what follows.

    `start` begins an attempt. Raises `InvalidStateTransitionError` for what cannot have been.
    """
    first = events[0].payload
    if isinstance(first, RunCreated):
        run.create(events[0].agent_id or "", first, at)
        run.adopt([(e.step_id or "", e.payload) for e in events[1:]], at)
        return False
    if isinstance(first, RunCancelRequested):
        run.request_cancel(first.by, first.reason, at)
        if len(events) > 1 and isinstance(events[1].payload, RunCanceled):
            run.finish_cancel(at)
        return False
    if isinstance(first, RunCanceled) and run.cancel is not None:
        run.finish_cancel(at)
        return False
    if isinstance(first, ToolCallApproved | ToolCallRejected):
        _record_decisions(run, events, at)
        return False
    if isinstance(first, RunStarted):
        start(first)
    elif isinstance(first, ModelCompleted):
        _end_model(run, first, at)
    else:
        _end_tools(run, events, at)
    return run.attempt > 0 or run.is_final


def _end_model(run: Run, said: ModelCompleted, at: Moment) -> None:
    if run.open_model is not None and run.open_model[1].name != said.model_ref:
        raise InvalidStateTransitionError("the answer is of another model than was asked")
    run.end_model(said, at)


def _record_decisions(run: Run, events: Sequence[Event], at: Moment) -> None:
    """Stage what a person said of one call, or the sweep of those that nobody decided on."""
    for said in (event.payload for event in events):
        if isinstance(said, ToolCallApproved):
            record_decision(run, said.approval_id, "approve", said.by, said.reason, at)
        elif isinstance(said, ToolCallRejected):
            record_decision(run, said.approval_id, "reject", said.by, said.reason, at)


def _end_tools(run: Run, events: Sequence[Event], at: Moment) -> None:
    """Stage the results at the front of a commit, and the executor's verdict behind them."""
    end = 0
    while end < len(events) and isinstance(said := events[end].payload, ToolCallCompleted):
        if said.tool_call_id in run.approvals.granted:
            break  # decided: what was approved is not called, the tool is gone
        call = run.open_tools.get(said.tool_call_id)
        if call is not None and call.name != said.tool_id:
            raise InvalidStateTransitionError("the result is of another tool than was asked")
        run.end_tool(said, at)
        end += 2
    behind = events[end].payload if end < len(events) else None
    if isinstance(behind, RunFailed) and _is_verdict(behind.error, after_results=end > 0):
        run.fail(behind.error, at)


def _is_verdict(error: ErrorInfo, *, after_results: bool) -> bool:
    return error.code == "interrupted" if after_results else error.code in VERDICTS
