"""The spans of a run: `invoke_agent`, and one for each of its steps."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from agentos.domain.envelope import Event, Payload, by_type
from agentos.domain.run.events import (
    ModelCompleted,
    RunCanceled,
    RunCompleted,
    RunCreated,
    RunFailed,
    RunStarted,
    StepCompleted,
    StepStarted,
    ToolCallCompleted,
    ToolCallRequested,
)
from agentos.domain.subjects import StreamRef
from agentos.domain.tracing import span as s
from agentos.domain.tracing.ids import is_sampled, own_span, parent_in, span_of, trace_id_of
from agentos.domain.tracing.span import Mark, Span, Value, present

EXECUTE_TOOL: Final = "execute_tool"
INVOKE_AGENT: Final = "invoke_agent"
CANCELED: Final = "canceled"


@dataclass(slots=True)
class OpenStep:
    """A step that has begun, and what is known of it."""

    name: str
    kind: str
    start_ms: int
    attributes: dict[str, Value] = field(default_factory=dict)
    error: str | None = None


class RunSpans:
    """Folds one run's events, in their order; each says which spans have ended.

    Spans of one run are the same whoever folds it, and from wherever its events are read: who
    sends one twice sends the same one.
    """

    def __init__(self, ref: StreamRef) -> None:
        self.ref = ref
        self.position = 0
        self.created: Event | None = None
        self._first: RunCreated
        self._steps: dict[str, OpenStep] = {}
        self._marks: list[Mark] = []
        self._input_tokens = self._output_tokens = 0
        self._cost_usd = 0.0

    def take(self, events: Iterable[Event]) -> list[Span]:
        """Fold a commit's events and return the spans that ended with them.

        The past that a fork takes over comes with its first event, and is nobody's work again.
        """
        found: list[Span] = []
        adopting = False
        for event in events:
            if isinstance(event.payload, RunCreated):
                self.created, self._first, adopting = event, event.payload, True
            elif self.created is not None and not adopting:
                found += APPLY[type(event.payload)](self, event, event.payload)
        return found if self.is_sampled else []

    @property
    def is_sampled(self) -> bool:
        """Whether its trace is kept."""
        return self.created is not None and is_sampled(self.created.trace.traceparent)

    def _started(self, event: Event, payload: RunStarted) -> list[Span]:
        attributes = {"agentos.run.attempt": payload.attempt}
        self._marks.append(Mark(RunStarted.TYPE, event.time, attributes))
        return []

    def _step_started(self, event: Event, payload: StepStarted) -> list[Span]:
        step = OpenStep(payload.name, payload.step_kind, event.time)
        self._steps[event.step_id or ""] = step
        return []

    def _model_completed(self, event: Event, payload: ModelCompleted) -> list[Span]:
        self._input_tokens += payload.usage.input_tokens
        self._output_tokens += payload.usage.output_tokens
        self._cost_usd += payload.cost_usd
        return self._noted(event, payload, {"agentos.request.id": payload.request_id})

    def _tool_requested(self, event: Event, payload: ToolCallRequested) -> list[Span]:
        return self._noted(event, payload, {s.TOOL_CALL_ID: payload.tool_call_id})

    def _tool_completed(self, event: Event, payload: ToolCallCompleted) -> list[Span]:
        return self._noted(event, payload, {s.TOOL_CALL_ID: payload.tool_call_id})

    def _noted(self, event: Event, payload: Any, attributes: Mapping[str, Value]) -> list[Span]:
        step = self._steps.get(event.step_id or "")
        if step is not None:
            step.attributes.update(attributes)
            error = getattr(payload, "error", None)
            step.error = error.code if error is not None else step.error
        return []

    def _step_completed(self, event: Event, payload: StepCompleted) -> list[Span]:
        step = self._steps.pop(event.step_id or "", None)
        if step is None:
            return []
        if payload.status == "error":
            step.error = step.error or "_OTHER"
        return [self._step(event.step_id or "", step, event.time)]

    def _ended(self, event: Event, payload: RunCompleted | RunFailed | RunCanceled) -> list[Span]:
        error = payload.error.code if isinstance(payload, RunFailed) else None
        found = []
        for step_id, step in self._steps.items():
            step.error = step.error or error or CANCELED
            found.append(self._step(step_id, step, event.time))
        self._steps.clear()
        return [*found, self._run(event, payload, error)]

    def _run(
        self, event: Event, payload: RunCompleted | RunFailed | RunCanceled, error: str | None
    ) -> Span:
        created, first = self._created()
        has_model = payload.summary.model_calls_total > 0
        more = {
            s.OPERATION: INVOKE_AGENT,
            s.PROVIDER: s.OURS,
            s.AGENT_VERSION: first.agent_version,
            s.INPUT_TOKENS: self._input_tokens if has_model else None,
            s.OUTPUT_TOKENS: self._output_tokens if has_model else None,
            "agentos.run.status": payload.status,
            "agentos.run.steps": payload.summary.steps_total,
            "agentos.run.tool_calls": payload.summary.tool_calls_total,
            "agentos.run.model_calls": payload.summary.model_calls_total,
            "agentos.cost_usd": self._cost_usd if has_model else None,
        }
        return Span(
            trace_id=self._trace_id(),
            span_id=self._span_id(),
            parent_span_id=parent_in(created.trace, first.parent_span_id),
            name=f"{INVOKE_AGENT} {created.agent_id}",
            kind="internal",
            start_ms=created.time,
            end_ms=event.time,
            attributes=self._common() | present(more),
            error=error,
            marks=tuple(self._marks),
        )

    def _step(self, step_id: str, step: OpenStep, end_ms: int) -> Span:
        is_tool = step.kind == "tool"
        more: dict[str, Value] = {s.STEP_ID: step_id, "agentos.step.kind": step.kind}
        if is_tool:
            more |= {s.OPERATION: EXECUTE_TOOL, s.TOOL_NAME: step.name, s.TOOL_TYPE: "function"}
        return Span(
            trace_id=self._trace_id(),
            span_id=span_of(step_id),
            parent_span_id=self._span_id(),
            name=f"{EXECUTE_TOOL if is_tool else 'step'} {step.name}",
            kind="internal",
            start_ms=step.start_ms,
            end_ms=end_ms,
            attributes=self._common() | more | step.attributes,
            error=step.error,
        )

    def _common(self) -> dict[str, Value]:
        created, first = self._created()
        session = first.context.get("session_id")
        return present(
            {
                s.AGENT_ID: created.agent_id,
                s.AGENT_NAME: created.agent_id,
                s.CONVERSATION_ID: session if isinstance(session, str) else None,
                s.TENANT_ID: self.ref.tenant_id,
                s.RUN_ID: self.ref.aggregate_id,
            }
        )

    def _span_id(self) -> str:
        created, first = self._created()
        return own_span(created.trace, first.parent_span_id, self.ref.aggregate_id)

    def _trace_id(self) -> str:
        return trace_id_of(self._created()[0].trace.traceparent, self.ref.aggregate_id)

    def _created(self) -> tuple[Event, RunCreated]:
        if self.created is None:
            raise ValueError(f"{self.ref}: nothing begins it")
        return self.created, self._first


Apply = Callable[[RunSpans, Event, Any], list[Span]]
APPLY: Final[Mapping[type[Payload], Apply]] = {
    RunStarted: RunSpans._started,
    StepStarted: RunSpans._step_started,
    ModelCompleted: RunSpans._model_completed,
    ToolCallRequested: RunSpans._tool_requested,
    ToolCallCompleted: RunSpans._tool_completed,
    StepCompleted: RunSpans._step_completed,
    RunCompleted: RunSpans._ended,
    RunFailed: RunSpans._ended,
    RunCanceled: RunSpans._ended,
}
RUN_FACTS: Final = by_type(RunCreated, *APPLY)
"""The events that a run's spans follow from, by name; the others say nothing of them."""
