"""A span as the log tells of it, and where spans are sent.

The names are those of OpenTelemetry's semantic conventions for generative AI. A span holds ids,
names, counts and decisions: no prompt, no answer, no tool's input or output.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol

Value = str | bool | int | float

OPERATION: Final = "gen_ai.operation.name"
PROVIDER: Final = "gen_ai.provider.name"
REQUEST_MODEL: Final = "gen_ai.request.model"
REQUEST_STREAM: Final = "gen_ai.request.stream"
RESPONSE_MODEL: Final = "gen_ai.response.model"
INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
AGENT_ID: Final = "gen_ai.agent.id"
AGENT_NAME: Final = "gen_ai.agent.name"
AGENT_VERSION: Final = "gen_ai.agent.version"
CONVERSATION_ID: Final = "gen_ai.conversation.id"
TOOL_NAME: Final = "gen_ai.tool.name"
TOOL_TYPE: Final = "gen_ai.tool.type"
TOOL_CALL_ID: Final = "gen_ai.tool.call.id"
ERROR_TYPE: Final = "error.type"

TENANT_ID: Final = "agentos.tenant.id"
RUN_ID: Final = "agentos.run.id"
STEP_ID: Final = "agentos.step.id"
OURS: Final = "agentos"


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that happened within a span."""

    name: str
    at_ms: int
    attributes: Mapping[str, Value]


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A piece of work that has ended. Times are epoch ms; `error` is its `error.type`."""

    trace_id: str
    span_id: str
    parent_span_id: str | None
    name: str
    kind: Literal["internal", "client"]
    start_ms: int
    end_ms: int
    attributes: Mapping[str, Value]
    error: str | None = None
    marks: tuple[Mark, ...] = ()


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of a batch of spans.

    `sent`: the collector has them, but for `rejected` ones. `refused`: it will never take them.
    `away`: it may take them later, not before `wait_s`.
    """

    outcome: Literal["sent", "refused", "away"]
    reason: str = ""
    rejected: int = 0
    wait_s: float = 0.0


class SpanSink(Protocol):
    """A collector of spans."""

    async def send(self, spans: Sequence[Span]) -> Sent:
        """Send a batch once, within seconds; never raises for what the collector does."""
        ...


def present(attributes: Mapping[str, Value | None]) -> dict[str, Value]:
    """Return the attributes that have a value."""
    return {name: value for name, value in attributes.items() if value is not None}
