"""The commands that handlers take, as they arrive over the command bus."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from agentos.domain.agent.agent import Definition
from agentos.domain.auth import Principal
from agentos.domain.envelope import Readable
from agentos.domain.federation.peer import PeerEntry, StackId
from agentos.domain.ids import FREE_ID_PATTERN, NAMED_ID_PATTERN
from agentos.domain.key.key import KeyKind
from agentos.domain.policy.document import PolicyDocument
from agentos.domain.run.approvals import Decision
from agentos.domain.run.events import ErrorInfo
from agentos.domain.run.request import RunRequest
from agentos.domain.tenant.tenant import Profile
from agentos.domain.tracing.ids import SPAN_ID_PATTERN
from agentos.domain.usage.usage import UsageRecorded

AgentId = Annotated[str, Field(pattern=NAMED_ID_PATTERN)]
TenantId = Annotated[str, Field(pattern=r"^tnt_[A-Za-z0-9_-]{1,100}$")]
PolicyId = Annotated[str, Field(pattern=r"^pol_[A-Za-z0-9_-]{1,100}$")]
KeyId = Annotated[str, Field(pattern=r"^key_[A-Za-z0-9_-]{1,100}$")]
RunId = Annotated[str, Field(pattern=NAMED_ID_PATTERN)]
TraceParent = Annotated[str, Field(pattern=r"^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$")]

SpanId = Annotated[str, Field(pattern=SPAN_ID_PATTERN)]


class Command(BaseModel):
    """What all commands carry. `command_id` names a repeat of the same request."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    traceparent: TraceParent
    correlation_id: str | None = None
    command_id: Annotated[str, Field(pattern=FREE_ID_PATTERN)] | None = None


class CreateRun(Command):
    """Start a run of an agent."""

    agent_id: AgentId
    request: RunRequest
    parent_span_id: SpanId | None = None


class ForkRun(Command):
    """Start a run with the recorded past of another: its steps before `from_step`."""

    run_id: RunId
    from_step: int = Field(ge=1, le=1_000_000)
    idempotency_key: Annotated[str, Field(pattern=FREE_ID_PATTERN)] | None = None
    parent_span_id: SpanId | None = None


class CancelRun(Command):
    """Stop a run, whatever it is doing."""

    run_id: RunId
    reason: str | None = Field(default=None, max_length=1024)


class DecideApproval(Command):
    """Say yes or no to a tool call that waits for a person."""

    run_id: RunId
    approval_id: Annotated[str, Field(pattern=FREE_ID_PATTERN)]
    decision: Decision
    reason: str | None = Field(default=None, max_length=1024)


class RegisterAgent(Command):
    """Make an agent."""

    agent_id: AgentId
    definition: Definition


class UpdateAgent(RegisterAgent):
    """Give an agent a new version."""


class DeprecateAgent(Command):
    """Let an agent take no new runs."""

    agent_id: AgentId


Word = Annotated[str, Field(max_length=256)]


class Denial(BaseModel):
    """So many like attempts that a gateway refused, or allowed where they have no event.

    `source` is an address, never a secret; `meta` are ids and decisions.
    """

    model_config = ConfigDict(frozen=True)

    tenant_id: str | None = None
    principal_id: str | None = Field(default=None, max_length=256)
    principal_type: Literal["user", "service"] = "user"
    action: str = Field(default="auth.denied", max_length=64)
    outcome: Literal["allowed", "denied", "error"] = "denied"
    meta: dict[Word, Word] = Field(default={}, max_length=8)
    correlation_id: str = Field(default="", max_length=256)
    request_id: str = Field(default="", max_length=256)
    resource: str = Field(max_length=256)
    reason: str = Field(max_length=256)
    source: str = Field(max_length=64)
    count: int = Field(ge=1)


class NoteDenials(Command):
    """Record refused attempts, and what was allowed and has no event."""

    denials: tuple[Denial, ...] = Field(max_length=1000)


Amounts = dict[str, Annotated[int, Field(ge=0, le=10**15)]]
HoldId = Annotated[str, Field(pattern=FREE_ID_PATTERN)]


class NoteQuery(Command):
    """Record that a platform admin looks at what is another tenant's, before it is shown."""

    tenant_id: TenantId
    request_id: str = Field(min_length=1, max_length=256)
    action: str = Field(default="audit.query", pattern=r"^[a-z.]{1,64}$")
    filters: tuple[Annotated[str, Field(max_length=32)], ...] = Field(default=(), max_length=16)


class HoldAsked(BaseModel):
    """What one call may use at most, and the block that a gateway would rather lease."""

    model_config = ConfigDict(frozen=True)

    hold_id: HoldId
    amounts: Amounts
    block: Amounts | None = None


class ReserveQuota(Command):
    """Hold amounts of a resource at their worst case."""

    resource: Literal["models", "storage", "tools"]
    holds: tuple[HoldAsked, ...] = Field(min_length=1, max_length=1000)


class SettleQuota(Command):
    """Say what holds came to (no amounts: nothing was used), and which parts come back."""

    resource: Literal["models", "storage", "tools"]
    amounts: dict[HoldId, Amounts] = {}
    parts: dict[HoldId, Amounts] = {}


class EndedCall(BaseModel):
    """A model call that ended, and whose it was."""

    model_config = ConfigDict(frozen=True)

    principal: Principal
    traceparent: TraceParent
    usage: UsageRecorded


class RecordUsage(Command):
    """Write what model calls used. The same `batch_id` again is the same batch.

    `after` is a log position from before the batch was first sent.
    """

    batch_id: Annotated[str, Field(pattern=NAMED_ID_PATTERN)]
    after: int = Field(ge=0)
    calls: tuple[EndedCall, ...] = Field(min_length=1, max_length=256)


class PublishCatalog(Command):
    """Let the node's models, prices and routes be these; the document is checked by its rules."""

    document: dict[str, Any]
    expected_version: int | None = Field(default=None, ge=0)


class OfTenant(Command):
    """What an administrator does to a tenant, its own or another: `auth` stays the caller's."""

    tenant_id: TenantId


class CreateTenant(OfTenant):
    """Make a tenant."""

    profile: Profile


class UpdateTenant(OfTenant):
    """Change a tenant's profile: wholly, or as a JSON merge patch (null removes)."""

    changes: dict[str, Any]
    is_whole: bool = False


class EnableTenant(OfTenant):
    """Let a tenant act again."""


class DisableTenant(OfTenant):
    """Let a tenant do nothing more; its runs end by themselves, or are canceled."""

    runs: Literal["cancel", "drain"] = "drain"


class DeleteTenant(OfTenant):
    """Remove a tenant for ever; `confirm` repeats its id."""

    confirm: str = Field(default="", max_length=256)


class EraseSubject(OfTenant):
    """Destroy the key of a data subject's content: a person's id, or its `sub_…` digest."""

    subject: Annotated[str, Field(pattern=FREE_ID_PATTERN)]
    dry_run: bool = False


class IssueKey(OfTenant):
    """Make a key; without scopes it has all that its roles and the issuer allow."""

    kind: KeyKind = "api"
    name: str | None = Field(default=None, max_length=256)
    principal: Principal | None = None
    roles: tuple[str, ...] = Field(default=("tenant_service",), min_length=1, max_length=10)
    scopes: tuple[str, ...] | None = Field(default=None, max_length=100)
    expires_at: int | None = Field(default=None, ge=0, le=253_402_300_799_999)


class RotateKey(OfTenant):
    """Give a key a new secret; the old one holds so many seconds longer."""

    key_id: KeyId
    overlap_seconds: int = Field(default=3600, ge=0, le=30 * 86_400)


class RevokeKey(OfTenant):
    """Let a key identify nobody."""

    key_id: KeyId


ForwardId = Annotated[str, Field(pattern=r"^fwd_[A-Za-z0-9_-]{1,100}$")]


class RequestForward(Command):
    """Write that a run is about to be started at a peer."""

    agent_id: AgentId
    request: RunRequest
    stack_id: StackId
    selector: dict[str, Any]
    parent_span_id: SpanId | None = None


class AcceptForward(Command):
    """Write what a peer answered: it has the run."""

    forward_id: ForwardId
    remote_run_id: RunId
    remote_events_url: str = Field(max_length=2048)
    status: str = Field(max_length=64)
    created_at: str | None = Field(default=None, max_length=64)


class FailForward(Command):
    """Write that a peer did not take a run."""

    forward_id: ForwardId
    error: Annotated[ErrorInfo, Readable]


class CopyEvents(Command):
    """Continue the copy of a remote run, or say up to which event it cannot be continued.

    `filled_by` and `cut_ms` say that the events were missed in a cut and fetched behind it,
    `ended` how the run ended whose events the peer does not keep any more.
    """

    run_id: RunId
    lines: tuple[str, ...] = Field(default=(), max_length=10_000)
    filled_by: Literal["peer", "push"] | None = None
    cut_ms: int = Field(default=0, ge=0)
    missing_to: int | None = Field(default=None, ge=1)
    reason: Literal["skipped", "expired", "refused"] = "skipped"
    ended: Literal["completed", "failed", "canceled"] | None = None


class IngestEvents(Command):
    """Keep what a peer pushed of one run; `lines` are whole envelopes of it."""

    source_stack_id: StackId
    run_id: RunId | None = None
    lines: tuple[str, ...] = Field(max_length=10_000)


class NotePeer(Command):
    """Write that a peer answers, or no longer does."""

    stack_id: StackId
    state: Literal["live", "lost"]
    protocol: str = Field(default="", max_length=64)
    build: str = Field(default="", max_length=256)
    reason: str = Field(default="", max_length=256)


class AddPeer(Command):
    """Make a peer known."""

    entry: PeerEntry


class RemovePeer(Command):
    """Forget a peer that was added."""

    stack_id: StackId


class OfPolicy(OfTenant):
    """What is done to one of a tenant's policies."""

    policy_id: PolicyId


class PublishPolicy(OfPolicy):
    """Add a version of a policy; with `activate` it holds at once."""

    document: PolicyDocument
    activate: bool = False


class ActivatePolicy(OfPolicy):
    """Let a version of a policy hold."""

    version: int = Field(ge=1, le=10**9)
