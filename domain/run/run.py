"""The aggregate Run: its state, and the decisions that its lease holder records.

The command methods stage events: each is applied at once, so that a later decision of the
same commit sees it, and `collect` hands out what is to be written. Whoever fails to write
throws the object away and folds the log again.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from agentos.domain.aggregate import Aggregate, Moment, next_event
from agentos.domain.auth import AuthContext
from agentos.domain.envelope import Event, Payload, Trace
from agentos.domain.errors import InvalidStateTransitionError
from agentos.domain.run.approvals import Approvals
from agentos.domain.run.events import (
    RUN_EVENTS,
    AnswerMessage,
    ErrorInfo,
    InputSummary,
    ModelCompleted,
    ModelRequested,
    OfferedTool,
    Output,
    RunCanceled,
    RunCancelRequested,
    RunCompleted,
    RunCreated,
    RunFailed,
    RunStarted,
    StepCompleted,
    StepStarted,
    Summary,
    ToolCallApprovalRequired,
    ToolCallApproved,
    ToolCallCompleted,
    ToolCallRejected,
    ToolCallRequested,
)
from agentos.domain.subjects import StreamRef
from agentos.domain.times import rfc3339
from agentos.domain.tracing.ids import trace_of_step

NEVER_MS: Final = 2**53
FINAL: Final = frozenset({"completed", "failed", "canceled"})
STEP_FACTS: Final = (
    StepStarted,
    StepCompleted,
    ModelRequested,
    ModelCompleted,
    ToolCallRequested,
    ToolCallApprovalRequired,
    ToolCallApproved,
    ToolCallRejected,
    ToolCallCompleted,
)


@dataclass(frozen=True, slots=True)
class OpenCall:
    """A call whose intent is in the log and whose result is not."""

    step_id: str
    name: str
    started_ms: int
    timeout_ms: int = 0
    arguments: Mapping[str, Any] | None = None


class Run(Aggregate):
    """A run as its events tell it."""

    KIND: ClassVar = "run"
    PAYLOADS: ClassVar = RUN_EVENTS
    created: RunCreated

    def __init__(self, ref: StreamRef) -> None:
        super().__init__(ref)
        self.agent_id = ""
        self.status: str | None = None
        self.created_at = 0
        self.started_at: int | None = None
        self.completed_at: int | None = None
        self.attempt = 0
        self.attempt_at = 0
        self.worker_id: str | None = None
        self.trace: Trace | None = None
        self.answers: list[AnswerMessage] = []
        self.results: dict[str, ToolCallCompleted] = {}
        self.open_model: tuple[str, OpenCall] | None = None
        self.open_tools: dict[str, OpenCall] = {}
        self.approvals = Approvals()
        self.waited_ms = 0
        self.model_error: ErrorInfo | None = None
        self.cancel: RunCancelRequested | None = None
        self.steps_total = 0
        self.tool_calls_total = 0
        self.model_calls_total = 0
        self.tokens_total = 0
        self.cost_usd = 0.0
        self.output: Output | None = None
        self.error: ErrorInfo | None = None
        self.staged: list[Event] = []

    # What it is

    @property
    def is_final(self) -> bool:
        """Whether the final event is written: nothing may follow it."""
        return self.status in FINAL

    @property
    def is_waiting(self) -> bool:
        """Whether nothing can be done before a person decides: nobody holds the run then."""
        asked, granted = self.approvals.asked, self.approvals.granted
        return bool(asked) and not granted and not self.open_tools and not self.is_final

    @property
    def waits_until(self) -> int:
        """When a waiting run is looked at next by itself (epoch ms); 0 when it does not wait."""
        return (self.approvals.expires_ms or NEVER_MS) if self.is_waiting else 0

    @property
    def summary(self) -> Summary:
        """What the run came to so far."""
        return Summary(
            steps_total=self.steps_total,
            tool_calls_total=self.tool_calls_total,
            model_calls_total=self.model_calls_total,
        )

    def trace_of(self, step_id: str | None) -> Trace | None:
        """Return the span of a step's events, else the run's; `None` before the first event."""
        if step_id is None or self.trace is None or self.created.parent_span_id is None:
            return self.trace
        return trace_of_step(self.trace, step_id)

    def auth(self) -> AuthContext:
        """Return the context in which the run's own calls are made: its principal's."""
        created = self.created
        return AuthContext(
            tenant_id=self.ref.tenant_id,
            principal=created.principal,
            scopes=frozenset(created.scopes or ()),
            policy_context=created.policy_context,
        )

    def unanswered(self) -> list[str]:
        """Return the ids of the last answer's tool calls that were neither begun nor settled."""
        if not self.answers:
            return []
        ids = (call.tool_call_id for call in self.answers[-1].tool_calls)
        known = self.results.keys() | self.open_tools.keys()
        return [i for i in ids if i not in known and not self.approvals.holds(i)]

    def view(self) -> dict[str, Any]:
        """Return the contract's `Run` object."""
        created = self.created
        view: dict[str, Any] = {
            "tenant_id": self.ref.tenant_id,
            "agent_id": self.agent_id,
            "run_id": self.ref.aggregate_id,
            "status": self.status,
            "created_at": rfc3339(self.created_at),
            "events_url": f"/v1/runs/{self.ref.aggregate_id}/events",
            "run_options": created.run_options,
            "output": self.output.model_dump() if self.output else None,
            "error": self.error.model_dump() if self.error else None,
        }
        if self.started_at is not None:
            view["started_at"] = rfc3339(self.started_at)
            view["summary"] = self.summary.model_dump() | {
                "tokens_total": self.tokens_total,
                "cost_usd": self.cost_usd,
            }
        if self.completed_at is not None:
            view["completed_at"] = rfc3339(self.completed_at)
        if labels := created.context.get("labels"):
            view["labels"] = labels
        if created.fork is not None:
            view["forked_from"] = created.fork.model_dump()
        if created.correlation_id:
            view["correlation_id"] = created.correlation_id
        return view

    # How it evolves

    def apply(self, event: Event) -> None:
        """Evolve by one event."""
        if self.is_waiting:
            self.waited_ms += max(0, event.time - self.time)
        APPLY[type(event.payload)](self, event, event.payload)

    def _created(self, event: Event, payload: RunCreated) -> None:
        self.status = payload.status
        self.created = payload
        self.created_at = event.time
        self.agent_id = event.agent_id or ""
        self.trace = event.trace

    def _started(self, event: Event, payload: RunStarted) -> None:
        self.status = payload.status
        self.attempt = payload.attempt
        self.attempt_at = event.time
        self.worker_id = payload.worker_id
        if self.started_at is None:
            self.started_at = event.time

    def _step_started(self, event: Event, payload: StepStarted) -> None:
        if payload.step_kind in ("model", "tool"):
            self.steps_total += 1

    def _model_requested(self, event: Event, payload: ModelRequested) -> None:
        self.model_calls_total += 1
        call = OpenCall(event.step_id or "", payload.model_ref, event.time)
        self.open_model = (payload.request_id, call)

    def _model_completed(self, event: Event, payload: ModelCompleted) -> None:
        self.open_model = None
        self.tokens_total += payload.usage.total_tokens
        self.cost_usd += payload.cost_usd
        self.model_error = payload.error
        if payload.message is not None:
            self.answers.append(payload.message)

    def _approval_required(self, event: Event, payload: ToolCallApprovalRequired) -> None:
        self.approvals.ask(payload, event.step_id or "", event.time)

    def _approval_decided(self, event: Event, payload: ToolCallApproved | ToolCallRejected) -> None:
        if self.is_waiting:
            self.worker_id = None
        self.approvals.decide(payload, event.time)

    def _tool_requested(self, event: Event, payload: ToolCallRequested) -> None:
        self.tool_calls_total += 1
        self.approvals.granted.pop(payload.tool_call_id, None)
        self.open_tools[payload.tool_call_id] = OpenCall(
            event.step_id or "", payload.tool_id, event.time, payload.timeout_ms, payload.input
        )

    def _tool_completed(self, event: Event, payload: ToolCallCompleted) -> None:
        self.open_tools.pop(payload.tool_call_id, None)
        self.approvals.granted.pop(payload.tool_call_id, None)
        self.results[payload.tool_call_id] = payload

    def _cancel_requested(self, event: Event, payload: RunCancelRequested) -> None:
        self.cancel = payload

    def _completed(self, event: Event, payload: RunCompleted) -> None:
        self._end(event, payload.status)
        self.output = payload.output

    def _failed(self, event: Event, payload: RunFailed) -> None:
        self._end(event, payload.status)
        self.error = payload.error

    def _canceled(self, event: Event, payload: RunCanceled) -> None:
        self._end(event, payload.status)

    def _end(self, event: Event, status: str) -> None:
        self.status = status
        self.completed_at = event.time

    # What may happen next

    def stage(self, at: Moment, *payloads: Payload, step_id: str | None = None) -> None:
        """Add facts to what the next commit writes, and see them at once.

        Raises `InvalidStateTransitionError` behind the final event, and for anything but
        `run.created` before it.
        """
        trace = self.trace_of(step_id)
        for payload in payloads:
            if self.is_final or (self.status is None) is not isinstance(payload, RunCreated):
                raise InvalidStateTransitionError("the run's state forbids it", status=self.status)
            event = next_event(
                self,
                payload,
                at,
                agent_id=self.agent_id,
                run_id=self.ref.aggregate_id,
                step_id=step_id,
                trace=trace,
            )
            self.evolve(event)
            self.staged.append(event)

    def collect(self) -> list[Event]:
        """Return the staged events and forget them."""
        staged, self.staged = self.staged, []
        return staged

    def create(self, agent_id: str, created: RunCreated, at: Moment) -> None:
        """Begin the run."""
        self.agent_id = agent_id
        self.stage(at, created)

    def adopt(self, past: Sequence[tuple[str, Payload]], at: Moment) -> None:
        """Take over another run's past: whole steps, each fact with its step's id.

        Raises `InvalidStateTransitionError` for a fact that is no step's, or a step without
        its end.
        """
        if past and self.created.fork is None:
            raise InvalidStateTransitionError("only a fork begins with a past", status=self.status)
        for step_id, payload in past:
            if not isinstance(payload, STEP_FACTS):
                raise InvalidStateTransitionError("no fact of a step", status=self.status)
            self.stage(at, payload, step_id=step_id)
        if self.open_model or self.open_tools or self.approvals.asked or self.approvals.granted:
            raise InvalidStateTransitionError("a step of the past has no end", status=self.status)

    def start(self, worker_id: str, at: Moment, tools: list[OfferedTool] | None = None) -> None:
        """Take the run: the fence against every earlier lease holder."""
        self.stage(at, RunStarted(worker_id=worker_id, attempt=self.attempt + 1, tools=tools))

    def begin_model(self, model_ref: str, messages: int, has_tools: bool, at: Moment) -> None:
        """Write down the intent of a model call."""
        self.stage(
            at,
            StepStarted(step_kind="model", name=model_ref),
            ModelRequested(
                request_id=at.new_id("req"),
                model_ref=model_ref,
                input_summary=InputSummary(messages=messages, has_tools=has_tools),
            ),
            step_id=at.new_id("stp"),
        )

    def end_model(self, completed: ModelCompleted, at: Moment) -> None:
        """Write down the result of the open model call."""
        if self.open_model is None or self.open_model[0] != completed.request_id:
            raise InvalidStateTransitionError("no such model call is open", status=self.status)
        _, call = self.open_model
        self.stage(
            at,
            completed,
            StepCompleted(
                step_kind="model",
                name=call.name,
                status=completed.status,
                duration_ms=max(0, self.later(at.now_ms) - call.started_ms),
            ),
            step_id=call.step_id,
        )

    def begin_tool(self, requested: ToolCallRequested, at: Moment) -> None:
        """Write down the intent of a tool call."""
        started = StepStarted(step_kind="tool", name=requested.tool_id)
        self.stage(at, started, requested, step_id=at.new_id("stp"))

    def refuse_tool(self, completed: ToolCallCompleted, at: Moment) -> None:
        """Write down that a call was asked for and not made."""
        tool = completed.tool_id
        self.stage(
            at,
            StepStarted(step_kind="tool", name=tool),
            completed,
            StepCompleted(step_kind="tool", name=tool, status="error", duration_ms=0),
            step_id=at.new_id("stp"),
        )

    def end_tool(self, completed: ToolCallCompleted, at: Moment) -> None:
        """Write down the result of an open tool call."""
        call = self.open_tools.get(completed.tool_call_id)
        if call is None:
            raise InvalidStateTransitionError("no such tool call is open", status=self.status)
        step = StepCompleted(
            step_kind="tool",
            name=call.name,
            status=completed.status,
            duration_ms=completed.duration_ms,
        )
        self.stage(at, completed, step, step_id=call.step_id)

    def request_cancel(self, by: str, reason: str | None, at: Moment) -> None:
        """Ask the run to stop; asked twice, it stands once."""
        if self.is_final or self.status is None:
            raise InvalidStateTransitionError("the run has ended", status=self.status)
        if self.cancel is None:
            self.stage(at, RunCancelRequested(by=by, reason=reason))

    def finish_cancel(self, at: Moment) -> None:
        """End the run as canceled: no call starts behind this."""
        by = self.cancel.by if self.cancel else at.origin.principal.principal_id
        self.stage(at, RunCanceled(by=by, summary=self.summary))

    def complete(self, output: Output | None, at: Moment) -> None:
        """End the run with its answer."""
        self.stage(at, RunCompleted(output=output, summary=self.summary))

    def fail(self, error: ErrorInfo, at: Moment) -> None:
        """End the run with an error."""
        self.stage(at, RunFailed(error=error, summary=self.summary))


def _nothing(run: Run, event: Event, payload: Any) -> None:
    """Some facts change no state."""


Apply = Callable[[Run, Event, Any], None]
APPLY: Mapping[type[Payload], Apply] = dict.fromkeys(RUN_EVENTS.values(), _nothing) | {
    RunCreated: Run._created,
    RunStarted: Run._started,
    StepStarted: Run._step_started,
    ModelRequested: Run._model_requested,
    ModelCompleted: Run._model_completed,
    ToolCallApprovalRequired: Run._approval_required,
    ToolCallApproved: Run._approval_decided,
    ToolCallRejected: Run._approval_decided,
    ToolCallRequested: Run._tool_requested,
    ToolCallCompleted: Run._tool_completed,
    RunCancelRequested: Run._cancel_requested,
    RunCompleted: Run._completed,
    RunFailed: Run._failed,
    RunCanceled: Run._canceled,
}


def run_ref(tenant_id: str, run_id: str) -> StreamRef:
    """Return where a run's events are."""
    return StreamRef(tenant_id, Run.KIND, run_id)
