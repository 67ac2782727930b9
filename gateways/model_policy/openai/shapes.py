"""The shapes of the OpenAI-compatible answers, for the document."""

from typing import Any, Literal

from agentos.gateways.http.schemas import Shape


class OpenAIErrorObject(Shape):
    """What went wrong, as OpenAI's clients read it, and what AgentOS adds."""

    message: str
    type: str
    param: str | None
    code: str
    retryable: bool
    details: dict[str, Any]


class OpenAIErrorBody(Shape):
    """Every answer of an OpenAI-compatible route that is not a success."""

    error: OpenAIErrorObject
    correlation_id: str


class OpenAIPolicyOutcome(Shape):
    """What policy made of the call."""

    decision: Literal["allowed", "blocked", "redacted"]
    reasons: list[str]
    redactions: list[dict[str, Any]]


class OpenAIRoute(Shape):
    """Where the call went."""

    backend: str
    model: str
    node: str
    fallback_used: bool


class OpenAIOwn(Shape):
    """AgentOS's own member of an OpenAI object."""

    policy_outcome: OpenAIPolicyOutcome
    route: OpenAIRoute
    latency_ms: int
    cost_usd: float
    correlation_id: str


class ChatUsage(Shape):
    """The tokens of a chat completion."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatChoice(Shape):
    """The answer: a message of the assistant."""

    index: int
    message: dict[str, Any]
    logprobs: dict[str, Any] | None
    finish_reason: Literal["stop", "length", "tool_calls", "content_filter"]


class ChatCompletion(Shape):
    """A whole chat completion."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: ChatUsage
    agentos: OpenAIOwn


class EmbeddingUsage(Shape):
    """The tokens of an embedding call."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingObject(Shape):
    """One text's vector: numbers, or base64 of little-endian float32."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingList(Shape):
    """A vector for each text, in their order."""

    object: Literal["list"]
    data: list[EmbeddingObject]
    model: str
    usage: EmbeddingUsage
    agentos: OpenAIOwn


class ResponseAnswer(Shape):
    """A whole response."""

    id: str
    object: Literal["response"]
    created_at: int
    status: Literal["completed", "incomplete"]
    model: str
    output: list[dict[str, Any]]
    parallel_tool_calls: bool
    store: Literal[False]
    usage: dict[str, Any]
    agentos: OpenAIOwn
