"""The shapes of the orchestrator's answers and bodies, for the document and the parsing."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from agentos.domain.agent.agent import Definition
from agentos.domain.ids import NAMED_ID_PATTERN
from agentos.domain.run.request import RunRequest
from agentos.domain.usage.usage import UsageRecorded
from agentos.gateways.http.bodies import BodyAuth
from agentos.gateways.http.schemas import Shape


class RunCreate(RunRequest):
    """The body that starts a run."""

    auth: BodyAuth | None = None


class RunCancel(BaseModel):
    """The body of a cancel; it may be empty."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    reason: str | None = Field(default=None, max_length=1024)
    auth: BodyAuth | None = None


class ApprovalDecide(BaseModel):
    """The body of a decision."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    decision: Literal["approve", "reject"]
    reason: str | None = Field(default=None, max_length=1024)
    auth: BodyAuth | None = None


class RunFork(BaseModel):
    """The body of a fork: the step from which on the new run is its own."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    from_step: int = Field(ge=1, le=1_000_000)
    auth: BodyAuth | None = None


class AgentUpdate(Definition):
    """The body of a new version."""

    auth: BodyAuth | None = None


class AgentRegister(AgentUpdate):
    """The body that registers an agent."""

    agent_id: str = Field(pattern=NAMED_ID_PATTERN)


class AgentDeprecate(BaseModel):
    """The body of a deprecation; it may be empty."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    auth: BodyAuth | None = None


class RunOutput(Shape):
    """A run's answer."""

    type: Literal["text"]
    text: str
    artifacts: list[Any] | None = None


class RunSummary(Shape):
    """What a run came to so far."""

    steps_total: int
    tool_calls_total: int
    model_calls_total: int
    tokens_total: int
    cost_usd: float


class RunError(Shape):
    """Why a run failed."""

    code: str
    message: str
    retryable: bool | None = None
    details: dict[str, Any] | None = None


class RunOptionsShape(Shape):
    """How the run is executed; what was left out has its default."""

    priority: Literal["low", "normal", "high"]
    timeout_ms: int
    max_steps: int
    stream_events: bool
    dry_run: bool


class ForkedFromShape(Shape):
    """Whose past a run begins with."""

    run_id: str
    from_step: int


class RunShape(Shape):
    """A run."""

    tenant_id: str
    agent_id: str
    run_id: str
    status: Literal["queued", "running", "completed", "failed", "canceled"]
    created_at: str = Field(json_schema_extra={"format": "date-time"})
    started_at: str | None = Field(default=None, json_schema_extra={"format": "date-time"})
    completed_at: str | None = Field(default=None, json_schema_extra={"format": "date-time"})
    events_url: str
    run_options: RunOptionsShape
    summary: RunSummary | None = None
    output: RunOutput | None
    error: RunError | None
    labels: dict[str, str] | None = None
    forked_from: ForkedFromShape | None = None
    correlation_id: str | None = None


class RunAnswer(Shape):
    """One run."""

    run: RunShape
    correlation_id: str


class RunsAnswer(Shape):
    """A page of runs, newest first."""

    runs: list[RunShape]
    next_cursor: str | None = None
    correlation_id: str


class ApprovalShape(Shape):
    """A tool call that waits for a person, or did. `comment` is what the person said."""

    approval_id: str
    status: Literal["pending", "approved", "rejected", "expired", "closed"]
    run_id: str
    agent_id: str
    tool_call_id: str
    tool_id: str
    input: dict[str, Any] | None = None
    reason: str
    requested_at: str = Field(json_schema_extra={"format": "date-time"})
    expires_at: str | None = Field(default=None, json_schema_extra={"format": "date-time"})
    decided_at: str | None = Field(default=None, json_schema_extra={"format": "date-time"})
    by: str | None = None
    comment: str | None = None


class ApprovalsAnswer(Shape):
    """The approvals of a run, in the order in which they were asked for."""

    approvals: list[ApprovalShape]
    correlation_id: str


class DecisionAnswer(Shape):
    """A decision that stands, and the run behind it."""

    approval: ApprovalShape
    run: RunShape
    correlation_id: str


class AuditRecordShape(Shape):
    """One audit record; `hash` covers all else in it, `prev_hash` is the record's before."""

    audit_id: str
    sequence: int
    time: str = Field(json_schema_extra={"format": "date-time"})
    tenant_id: str
    principal: dict[str, Any]
    action: str
    resource: str
    outcome: Literal["allowed", "denied", "error"]
    reason: str | None = None
    cause: str
    correlation_id: str
    request_id: str
    run_id: str | None = None
    policy_context: dict[str, Any] | None = None
    meta: dict[str, Any]
    prev_hash: str
    hash: str


class AuditAnswer(Shape):
    """A page of audit records, newest first."""

    records: list[AuditRecordShape]
    next_cursor: str | None = None
    correlation_id: str


class AgentMemory(Shape):
    """Which memory an agent uses."""

    namespace: str


class AgentLimits(Shape):
    """What one run of an agent may use at most."""

    max_steps: int | None = None
    timeout_ms: int | None = None
    max_tokens_per_request: int | None = None
    cost_budget_usd: float | None = None


class AgentShape(Shape):
    """An agent in its newest version."""

    agent_id: str
    tenant_id: str
    status: Literal["active", "inactive", "deprecated"]
    created_at: str = Field(json_schema_extra={"format": "date-time"})
    updated_at: str = Field(json_schema_extra={"format": "date-time"})
    name: str
    description: str | None = None
    version: str
    model_ref: str
    instructions: str | None = None
    tools: list[str]
    memory: AgentMemory | None = None
    limits: AgentLimits | None = None
    trust_level: str | None = None
    labels: dict[str, str] | None = None


class AgentAnswer(Shape):
    """One agent."""

    agent: AgentShape
    correlation_id: str


class AgentsAnswer(Shape):
    """A page of agents, by id."""

    agents: list[AgentShape]
    next_cursor: str | None = None
    correlation_id: str


class UsageRowShape(Shape):
    """What was used in one window; null is everything, or no such thing."""

    model_config = ConfigDict(extra="allow", protected_namespaces=(), populate_by_name=True)

    window: Literal["hour", "day", "month"]
    from_: str = Field(alias="from", json_schema_extra={"format": "date-time"})
    to: str = Field(json_schema_extra={"format": "date-time"})
    model: str | None
    agent_id: str | None
    principal_id: str | None
    runs: int
    tool_calls: int
    model_calls: int
    errors: int
    blocked: int
    refused: int
    interrupted: int
    input_tokens: int
    output_tokens: int
    cost_usd: float


class UsageRowsAnswer(Shape):
    """A page of usage, the newest window first."""

    usage: list[UsageRowShape]
    next_cursor: str | None = None
    correlation_id: str


class ModelCallShape(UsageRecorded):
    """A model call as its record in the log has it."""

    ended_at: str = Field(json_schema_extra={"format": "date-time"})
    principal_id: str


class ModelCallAnswer(Shape):
    """What became of one model call."""

    model_call: ModelCallShape
    correlation_id: str
