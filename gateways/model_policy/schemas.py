"""The shapes of the canonical call, for the document and the parsing."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from agentos.domain.ids import FREE_ID_PATTERN
from agentos.gateways.http.bodies import BodyAuth
from agentos.gateways.http.schemas import Shape

FreeId = Annotated[str, Field(pattern=FREE_ID_PATTERN)]
Label = Annotated[str, Field(max_length=256)]
MOST_TOKENS = 10_000_000


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


class CallOfModel(_Part):
    """A tool call in an assistant's message."""

    tool_call_id: FreeId
    tool_id: str = Field(min_length=1, max_length=256)
    name: str | None = Field(default=None, min_length=1, max_length=256)
    arguments: dict[str, Any] = Field(default_factory=dict)


class Message(_Part):
    """One message."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str
    name: str | None = Field(default=None, max_length=256)
    tool_call_id: FreeId | None = None
    tool_calls: tuple[CallOfModel, ...] = Field(default=(), max_length=128)


class OfferedTool(_Part):
    """A tool that the model may ask for."""

    tool_id: str = Field(min_length=1, max_length=256)
    name: str | None = Field(default=None, min_length=1, max_length=256)
    description: str = Field(default="", max_length=16_384)
    input_schema: dict[str, Any]


class ModelInput(_Part):
    """The input of a chat call (`messages`) or of an embedding call (`texts`)."""

    messages: tuple[Message, ...] | None = Field(default=None, min_length=1, max_length=1_000)
    tools: tuple[OfferedTool, ...] = Field(default=(), max_length=256)
    tool_choice: str | None = Field(default=None, min_length=1, max_length=256)
    texts: tuple[str, ...] | None = Field(default=None, min_length=1, max_length=2048)
    encoding_format: Literal["float", "base64"] = "float"


class Generation(_Part):
    """How the answer is made."""

    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, ge=0, le=1)
    max_output_tokens: int | None = Field(default=None, ge=1, le=MOST_TOKENS)


class RequirementsAsked(_Part):
    """What the route must keep."""

    max_latency_ms: int | None = Field(default=None, ge=1, le=86_400_000)
    max_cost_usd: float | None = Field(default=None, ge=0, le=1e9)
    min_context_tokens: int | None = Field(default=None, ge=1, le=10**9)


class OriginAsked(_Part):
    """On behalf of which run the node's own runtime calls; nobody else's is believed."""

    agent_id: str = Field(max_length=256)
    run_id: str = Field(max_length=256)
    labels: dict[Label, Label] = Field(default_factory=dict)
    is_first: bool = False
    sealed: str = Field(default="", max_length=256)


class InvokeRequest(_Part):
    """One canonical call."""

    request_id: FreeId
    operation: Literal["chat", "embed"]
    model_ref: str = Field(min_length=1, max_length=256)
    requirements: RequirementsAsked | None = None
    input: ModelInput
    generation: Generation = Generation()
    timeout_ms: int = Field(default=120_000, ge=1, le=600_000)
    origin: OriginAsked | None = None


class Invoke(_Part):
    """The body of `models:invoke`. With `stream` the answer comes as server-sent events."""

    auth: BodyAuth | None = None
    request: InvokeRequest
    traceparent: str | None = Field(default=None, max_length=256)
    stream: bool = False


class UsageShape(Shape):
    """Tokens of one call."""

    input_tokens: int
    output_tokens: int
    total_tokens: int


class PolicyOutcomeShape(Shape):
    """What the policy gates said."""

    decision: Literal["allowed", "blocked", "redacted"]
    reasons: list[str]
    redactions: list[dict[str, Any]]


class RouteShape(Shape):
    """Who answered."""

    backend: str
    model: str
    node: str
    fallback_used: bool


class InvokeResponse(Shape):
    """What a canonical call came to."""

    request_id: str
    status: Literal["ok"]
    output: dict[str, Any]
    usage: UsageShape
    latency_ms: int
    cost_usd: float
    policy_outcome: PolicyOutcomeShape
    route: RouteShape


class InvokeAnswer(Shape):
    """The answer of `models:invoke`."""

    response: InvokeResponse
    correlation_id: str
    traceparent: str
