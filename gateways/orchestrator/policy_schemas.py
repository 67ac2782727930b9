"""The shapes of the policies' answers and bodies."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from agentos.domain.policy.document import PolicyDocument
from agentos.gateways.http.bodies import BodyAuth
from agentos.gateways.http.schemas import Shape

Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    auth: BodyAuth | None = None


class PolicyPublish(_Body):
    """The body that publishes a version. In the document an unknown field is an error."""

    document: PolicyDocument
    activate: bool = False


class PolicyActivate(_Body):
    """The body that activates a version."""

    version: int = Field(ge=1, le=10**9)


class PolicyVersionShape(Shape):
    """One version; without a time it is the one that comes with AgentOS."""

    version: int
    document: dict[str, Any]
    published_at: Time | None = None
    published_by: str | None = None


class PolicySummaryShape(Shape):
    """A policy without its documents. Only an active version holds."""

    policy_id: str
    tenant_id: str
    name: str
    latest_version: int
    active_version: int | None
    updated_at: Time | None = None


class PolicyShape(PolicySummaryShape):
    """A policy with all of its versions, the newest first."""

    versions: list[PolicyVersionShape]


class PolicyAnswer(Shape):
    """One policy."""

    policy: PolicyShape
    correlation_id: str


class PoliciesAnswer(Shape):
    """A page of policies, by id, and which of them holds for the tenant."""

    policies: list[PolicySummaryShape]
    default_policy_id: str
    next_cursor: str | None = None
    correlation_id: str
