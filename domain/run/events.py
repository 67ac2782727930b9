"""The events of a run: what each says on disk and on the wire."""

from typing import Any, ClassVar, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from agentos.domain.auth import Principal, RecordedPolicyContext
from agentos.domain.envelope import Payload, by_type, is_none

StepKind = Literal["plan", "model", "tool", "memory"]
Outcome = Literal["ok", "error"]


class Part(BaseModel):
    """A part of a payload."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


class ErrorInfo(Part):
    """Why something failed, with one of the contract's codes; `sealed` and `erased` as `Output`."""

    code: str
    message: str
    retryable: bool = False
    details: dict[str, Any] = Field(default_factory=dict)
    sealed: str | None = Field(default=None, exclude_if=is_none)
    erased: bool | None = Field(default=None, exclude_if=is_none)


class Summary(Part):
    """What a run came to. A step is one model call or one tool call."""

    steps_total: int
    tool_calls_total: int
    model_calls_total: int


class Output(Part):
    """A run's answer. `sealed` marks one under seal, `erased` one whose key is destroyed."""

    type: Literal["text"] = "text"
    text: str
    artifacts: list[Any] | None = Field(default=None, exclude_if=is_none)
    sealed: str | None = Field(default=None, exclude_if=is_none)
    erased: bool | None = Field(default=None, exclude_if=is_none)


class TokenUsage(Part):
    """Tokens of one model call."""

    input_tokens: int
    output_tokens: int
    total_tokens: int


class InputSummary(Part):
    """A model request's shape, without its content."""

    messages: int
    has_tools: bool


class PolicyOutcome(Part):
    """What the policy gates said of a call."""

    decision: Literal["allowed", "blocked", "redacted"] = "allowed"
    reasons: list[str] = Field(default_factory=list)
    redactions: list[dict[str, Any]] = Field(default_factory=list)


class RouteTaken(Part):
    """Which backend answered."""

    backend: str
    model: str
    node: str
    fallback_used: bool = False


class CallPolicy(Part):
    """What policy said of a call that may not simply be made, and why.

    The arguments of a blocked call are not kept. `wait_ms` is how long a person has to decide.
    """

    decision: Literal["blocked", "approval_required"]
    reasons: list[str] = Field(default_factory=list)
    wait_ms: int | None = Field(default=None, exclude_if=is_none)


class CallInAnswer(Part):
    """A tool call that a model's answer asks for; without `policy` it may be made."""

    tool_call_id: str
    tool_id: str
    name: str
    arguments: dict[str, Any]
    policy: CallPolicy | None = Field(default=None, exclude_if=is_none)


class AnswerMessage(Part):
    """A model's whole answer."""

    role: Literal["assistant"] = "assistant"
    content: str
    tool_calls: list[CallInAnswer] = Field(default_factory=list)


class ForkedFrom(Part):
    """Whose past a run begins with: the run, and the step from which on it is its own."""

    run_id: str
    from_step: int


class OfferedTool(Part):
    """A tool that an attempt may call, and how long a call of it may take."""

    tool_id: str
    timeout_ms: int


class RunCreated(Payload):
    """The run was accepted; this append is the race's judge for its idempotency key.

    `parent_span_id` is what the run's span is a part of (`tracing.NO_PARENT`: nothing). Logs of
    before have none, and steps without spans of their own.
    """

    TYPE: ClassVar = "agentos.run.created"
    status: Literal["queued"] = "queued"
    input: dict[str, Any]
    context: dict[str, Any]
    tooling: dict[str, Any]
    run_options: dict[str, Any]
    principal: Principal
    policy_context: RecordedPolicyContext
    agent_version: str
    idempotency_key: str | None = None
    correlation_id: str | None = Field(default=None, exclude_if=is_none)
    scopes: list[str] | None = Field(default=None, exclude_if=is_none)
    fork: ForkedFrom | None = Field(default=None, exclude_if=is_none)
    origin_stack_id: str | None = Field(default=None, exclude_if=is_none)
    parent_span_id: str | None = Field(default=None, exclude_if=is_none)


class RunStarted(Payload):
    """An executor took the run: the fence against every earlier one.

    `tools` are those that this attempt's decisions know: what else they rest on is in the log
    (decision 017). Logs of before have none.
    """

    TYPE: ClassVar = "agentos.run.started"
    status: Literal["running"] = "running"
    worker_id: str
    attempt: int
    tools: list[OfferedTool] | None = Field(default=None, exclude_if=is_none)


class StepStarted(Payload):
    """A model call, tool call or plan begins."""

    TYPE: ClassVar = "agentos.run.step.started"
    step_kind: StepKind
    name: str
    message: str | None = Field(default=None, exclude_if=is_none)


class StepCompleted(Payload):
    """A step ended."""

    TYPE: ClassVar = "agentos.run.step.completed"
    step_kind: StepKind
    name: str
    status: Outcome
    duration_ms: int


class ModelRequested(Payload):
    """The intent of a model call: written before it is made."""

    TYPE: ClassVar = "agentos.model.requested"
    request_id: str
    model_ref: str
    operation: Literal["chat", "embed"] = "chat"
    requirements: dict[str, Any] = Field(default_factory=dict)
    input_summary: InputSummary


class ModelCompleted(Payload):
    """The result of a model call: never asked for again."""

    TYPE: ClassVar = "agentos.model.completed"
    request_id: str
    model_ref: str
    operation: Literal["chat", "embed"] = "chat"
    status: Outcome
    usage: TokenUsage
    cost_usd: float
    latency_ms: int
    policy_outcome: PolicyOutcome
    route: RouteTaken
    message: AnswerMessage | None
    error: ErrorInfo | None = Field(default=None, exclude_if=is_none)


class ToolCallRequested(Payload):
    """The intent of a tool call: written before it is made."""

    TYPE: ClassVar = "agentos.tool.call.requested"
    tool_call_id: str
    tool_id: str
    input: dict[str, Any]
    timeout_ms: int


class ToolCallApprovalRequired(Payload):
    """A person must decide before the call is made, until `expires_at` where that is set."""

    TYPE: ClassVar = "agentos.tool.call.approval_required"
    tool_call_id: str
    tool_id: str
    approval_id: str
    reason: str
    expires_at: str | None = Field(default=None, exclude_if=is_none)


class ToolCallApproved(Payload):
    """A person said yes."""

    TYPE: ClassVar = "agentos.tool.call.approved"
    tool_call_id: str
    approval_id: str
    by: str
    reason: str | None = Field(default=None, exclude_if=is_none)


class ToolCallRejected(Payload):
    """A person said no."""

    TYPE: ClassVar = "agentos.tool.call.rejected"
    tool_call_id: str
    approval_id: str
    by: str
    reason: str | None = Field(default=None, exclude_if=is_none)


class ToolCallCompleted(Payload):
    """The result of a tool call: never made again."""

    TYPE: ClassVar = "agentos.tool.call.completed"
    tool_call_id: str
    tool_id: str
    status: Outcome
    output: Any
    duration_ms: int
    error: ErrorInfo | None


class RunCancelRequested(Payload):
    """Someone wants the run to stop; no call starts once the lease holder has seen it."""

    TYPE: ClassVar = "agentos.run.cancel_requested"
    by: str
    reason: str | None = Field(default=None, exclude_if=is_none)


class RunCompleted(Payload):
    """Final: the run answered (`output` is null after a dry run)."""

    TYPE: ClassVar = "agentos.run.completed"
    status: Literal["completed"] = "completed"
    output: Output | None
    summary: Summary


class RunFailed(Payload):
    """Final: the run failed."""

    TYPE: ClassVar = "agentos.run.failed"
    status: Literal["failed"] = "failed"
    error: ErrorInfo
    summary: Summary


class RunCanceled(Payload):
    """Final: the run was stopped."""

    TYPE: ClassVar = "agentos.run.canceled"
    status: Literal["canceled"] = "canceled"
    by: str
    summary: Summary


FINAL_TYPES: Final = frozenset({RunCompleted.TYPE, RunFailed.TYPE, RunCanceled.TYPE})
RUN_EVENTS: Final = by_type(
    RunCreated,
    RunStarted,
    StepStarted,
    StepCompleted,
    ModelRequested,
    ModelCompleted,
    ToolCallRequested,
    ToolCallApprovalRequired,
    ToolCallApproved,
    ToolCallRejected,
    ToolCallCompleted,
    RunCancelRequested,
    RunCompleted,
    RunFailed,
    RunCanceled,
)
SHORT_NAMES: Final = {
    "run.created": RunCreated.TYPE,
    "run.completed": RunCompleted.TYPE,
    "run.failed": RunFailed.TYPE,
    "step.started": StepStarted.TYPE,
    "tool.requested": ToolCallRequested.TYPE,
    "tool.completed": ToolCallCompleted.TYPE,
    "model.requested": ModelRequested.TYPE,
    "model.completed": ModelCompleted.TYPE,
}
