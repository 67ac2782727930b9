"""An agent: registered, updated by whole versions, deprecated."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from agentos.domain.aggregate import Aggregate, Moment, next_event
from agentos.domain.envelope import Event, Payload, Readable, by_type, is_none
from agentos.domain.errors import ConflictError, InvalidStateTransitionError, NotFoundError
from agentos.domain.ids import TOOL_ID_PATTERN
from agentos.domain.subjects import StreamRef
from agentos.domain.times import rfc3339

ToolId = Annotated[str, Field(pattern=TOOL_ID_PATTERN)]


class Limits(BaseModel):
    """What one run of the agent may use at most."""

    model_config = ConfigDict(frozen=True)

    max_steps: int | None = Field(default=None, ge=1, exclude_if=is_none)
    timeout_ms: int | None = Field(default=None, ge=1, exclude_if=is_none)
    max_tokens_per_request: int | None = Field(default=None, ge=1, exclude_if=is_none)
    cost_budget_usd: float | None = Field(default=None, ge=0, exclude_if=is_none)


class MemoryScope(BaseModel):
    """Which memory the agent uses."""

    model_config = ConfigDict(frozen=True)

    namespace: str = Field(min_length=1, max_length=256)


class Definition(BaseModel):
    """One version of an agent: what its runs do."""

    model_config = ConfigDict(frozen=True, protected_namespaces=())

    name: str = Field(min_length=1, max_length=256)
    description: str | None = Field(default=None, max_length=4096, exclude_if=is_none)
    version: str = Field(default="1", min_length=1, max_length=64)
    model_ref: str = Field(min_length=1, max_length=256)
    instructions: str | None = Field(default=None, max_length=262_144, exclude_if=is_none)
    tools: tuple[ToolId, ...] = Field(default=(), max_length=256)
    memory: MemoryScope | None = Field(default=None, exclude_if=is_none)
    limits: Limits | None = Field(default=None, exclude_if=is_none)
    trust_level: str | None = Field(default=None, max_length=64, exclude_if=is_none)
    labels: Annotated[dict[str, str] | None, Readable] = Field(default=None, exclude_if=is_none)


class AgentRegistered(Payload):
    """The agent exists, in its first version."""

    TYPE: ClassVar = "agentos.agent.registered"
    status: Literal["active"] = "active"
    definition: Definition


class AgentUpdated(Payload):
    """The agent has a new version; runs that began keep theirs."""

    TYPE: ClassVar = "agentos.agent.updated"
    status: Literal["active"] = "active"
    definition: Definition


class AgentDeprecated(Payload):
    """The agent takes no new runs."""

    TYPE: ClassVar = "agentos.agent.deprecated"
    status: Literal["deprecated"] = "deprecated"


class Agent(Aggregate):
    """An agent as its events tell it, with every version it ever had."""

    KIND: ClassVar = "agent"
    PAYLOADS: ClassVar = by_type(AgentRegistered, AgentUpdated, AgentDeprecated)

    def __init__(self, ref: StreamRef) -> None:
        super().__init__(ref)
        self.status: str | None = None
        self.created_at = 0
        self.versions: dict[str, Definition] = {}
        self.current: Definition | None = None

    def apply(self, event: Event) -> None:
        """Evolve by one event."""
        payload = event.payload
        if isinstance(payload, AgentRegistered):
            self.created_at = event.time
        if isinstance(payload, AgentRegistered | AgentUpdated):
            self.current = payload.definition
            self.versions[payload.definition.version] = payload.definition
            self.status = payload.status
        elif isinstance(payload, AgentDeprecated):
            self.status = payload.status

    def register(self, definition: Definition, at: Moment) -> list[Event]:
        """Decide that the agent begins; `ConflictError` when the id is taken."""
        if self.status is not None:
            raise ConflictError("the agent id is taken", agent_id=self.ref.aggregate_id)
        return [self._event(AgentRegistered(definition=definition), at)]

    def update(self, definition: Definition, at: Moment) -> list[Event]:
        """Decide a new version; `ConflictError` for a version that was there before."""
        self.require_known()
        if definition.version in self.versions:
            raise ConflictError("the agent has this version", version=definition.version)
        return [self._event(AgentUpdated(definition=definition), at)]

    def deprecate(self, at: Moment) -> list[Event]:
        """Decide that no new runs are taken; `InvalidStateTransitionError` when it is so."""
        self.require_runnable()
        return [self._event(AgentDeprecated(), at)]

    def require_known(self) -> Definition:
        """Return the current definition; `NotFoundError` when the agent was never registered."""
        if self.current is None:
            raise NotFoundError("no such agent")
        return self.current

    def require_runnable(self) -> Definition:
        """Return the current definition if new runs are taken."""
        definition = self.require_known()
        if self.status != "active":
            raise InvalidStateTransitionError("the agent takes no runs", status=self.status)
        return definition

    def view(self) -> dict[str, Any]:
        """Return the contract's `Agent` object."""
        definition = self.require_known()
        return {
            "agent_id": self.ref.aggregate_id,
            "tenant_id": self.ref.tenant_id,
            "status": self.status,
            "created_at": rfc3339(self.created_at),
            "updated_at": rfc3339(self.time),
            **definition.model_dump(mode="json"),
        }

    def _event(self, payload: Payload, at: Moment) -> Event:
        return next_event(self, payload, at, agent_id=self.ref.aggregate_id)


def agent_ref(tenant_id: str, agent_id: str) -> StreamRef:
    """Return where an agent's events are."""
    return StreamRef(tenant_id, Agent.KIND, agent_id)
