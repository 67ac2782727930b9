"""The shapes of the policy check."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from agentos.domain.ids import FREE_ID_PATTERN
from agentos.domain.policy.facts import Direction
from agentos.gateways.http.bodies import BodyAuth
from agentos.gateways.http.schemas import Shape

FreeId = Annotated[str, Field(pattern=FREE_ID_PATTERN)]
Name = Annotated[str, Field(min_length=1, max_length=256)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


class CheckedText(_Part):
    """The content to check."""

    type: Literal["text"] = "text"
    text: str


class PolicyCheck(_Part):
    """What is checked, by which policy: `pol_x` or `pol_x@2`; the tenant's own if not said.

    The rest is what the policy's conditions may ask for.
    """

    request_id: FreeId
    content: CheckedText
    ruleset: Name = "default"
    direction: Direction = "input"
    model: Name | None = None
    tier: Name | None = None
    backend: Name | None = None
    tool: Name | None = None
    agent_id: Name | None = None
    labels: dict[str, str] | None = Field(default=None, max_length=50)


class PolicyCheckBody(_Part):
    """The body of a policy check."""

    auth: BodyAuth | None = None
    policy_check: PolicyCheck


class RedactionShape(Shape):
    """A part of a text, in code points, and what stands in its place."""

    type: str
    start: int
    end: int
    replacement: str
    field: str


class PolicyResult(Shape):
    """The decision. What needs an approval is `blocked`: `approval_required:<rule>`."""

    request_id: str
    decision: Literal["allowed", "blocked", "redacted"]
    reasons: list[str]
    redactions: list[RedactionShape]


class PolicyCheckAnswer(Shape):
    """A policy check's answer."""

    policy_result: PolicyResult
    correlation_id: str
