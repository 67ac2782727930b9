"""The commands that handlers take, as they arrive over the command bus."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from agentos.domain.agent.agent import Definition
from agentos.domain.ids import FREE_ID_PATTERN, NAMED_ID_PATTERN
from agentos.domain.run.request import RunRequest

AgentId = Annotated[str, Field(pattern=NAMED_ID_PATTERN)]
RunId = Annotated[str, Field(pattern=NAMED_ID_PATTERN)]
TraceParent = Annotated[str, Field(pattern=r"^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$")]


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


class CancelRun(Command):
    """Stop a run, whatever it is doing."""

    run_id: RunId
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


class Denial(BaseModel):
    """So many like attempts that a gateway refused; `source` is an address, never a secret."""

    model_config = ConfigDict(frozen=True)

    tenant_id: str | None = None
    principal_id: str | None = Field(default=None, max_length=256)
    resource: str = Field(max_length=256)
    reason: str = Field(max_length=256)
    source: str = Field(max_length=64)
    count: int = Field(ge=1)


class NoteDenials(Command):
    """Record refused attempts."""

    denials: tuple[Denial, ...] = Field(max_length=1000)
