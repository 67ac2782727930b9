"""The shapes of the federation door's answers and bodies."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from agentos.domain.federation.selection import Selector
from agentos.domain.ids import NAMED_ID_PATTERN
from agentos.domain.run.request import RunRequest
from agentos.gateways.http.bodies import BodyAuth
from agentos.gateways.http.call import TRACEPARENT
from agentos.gateways.http.schemas import Shape


def _trace(text: str) -> str:
    if not TRACEPARENT.fullmatch(text.encode()):
        raise ValueError("not a W3C traceparent")
    return text


class ForwardedRequest(RunRequest):
    """The run that is to be started elsewhere."""

    agent_id: str = Field(pattern=NAMED_ID_PATTERN)


class ForwardPart(BaseModel):
    """Where to, and what."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    target_selector: Selector
    auth: BodyAuth | None = None
    run_request: ForwardedRequest
    traceparent: Annotated[str, AfterValidator(_trace)] | None = None


class ForwardBody(BaseModel):
    """The body of a forward."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    forward: ForwardPart


class CancelBody(BaseModel):
    """The body of a cancel; it may be empty."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    reason: str | None = Field(default=None, max_length=1024)
    auth: BodyAuth | None = None


class ApprovalDecide(BaseModel):
    """The body of a decision on a tool call."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    decision: Literal["approve", "reject"]
    reason: str | None = Field(default=None, max_length=1024)
    auth: BodyAuth | None = None


class DecisionAnswer(Shape):
    """A decision that stands, and the run behind it."""

    approval: dict[str, Any]
    run: dict[str, Any]
    correlation_id: str


class ApprovalsAnswer(Shape):
    """The approvals of a run, in the order in which they were asked for."""

    approvals: list[dict[str, Any]]
    correlation_id: str


class Forwarded(Shape):
    """Where the run is, and what the receiver first answered."""

    tenant_id: str
    remote_stack_id: str
    remote_run_id: str
    remote_events_url: str
    status: str
    forward_id: str | None = None


class ForwardAnswer(Shape):
    """The answer to a forward."""

    forwarded: Forwarded
    correlation_id: str


class CancelAnswer(Shape):
    """The run as its peer has it then."""

    run: dict[str, Any]
    correlation_id: str


class RemovedAnswer(Shape):
    """Which peer was forgotten."""

    stack_id: str
    correlation_id: str


class IngestAnswer(Shape):
    """How many events of a push were new, and how many were turned away."""

    accepted: int
    rejected: int
    correlation_id: str


class PeerAnswerShape(Shape):
    """This node, as its peers see it."""

    peer: dict[str, Any]
    correlation_id: str


class CapabilitiesAnswer(Shape):
    """What this node can do."""

    capabilities: dict[str, Any]
    correlation_id: str


class PeerState(Shape):
    """A peer, and how it is."""

    stack_id: str
    state: Literal["unknown", "live", "lost"]
    last_seen: str | None
    negotiated_version: str | None
    reason: str
    security: str
    source: Literal["file", "added"]
    events_by: Literal["http", "leaf"]


class PeersAnswer(Shape):
    """All peers that this node knows."""

    peers: list[PeerState]
    security: str
    correlation_id: str


class KeySet(Shape):
    """A JSON Web Key Set."""

    keys: list[dict[str, Any]]
