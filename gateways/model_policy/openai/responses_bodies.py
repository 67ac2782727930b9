"""The body of a response, for the document and the parsing."""

from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from agentos.gateways.model_policy.openai.fields import (
    MAX_TOOLS,
    CallId,
    FunctionName,
    OpenAIBody,
    OutputTokens,
    Part,
    Temperature,
    TopP,
    Unsupported,
    by_form,
)

NO_STATE: Final = "is not supported: no response is kept, send the whole conversation as input"


class ResponseTextPart(Part):
    """A part of a message's content; only text is taken."""

    type: Literal["input_text", "output_text"]
    text: str


Content = Annotated[
    Annotated[str, Tag("text")] | Annotated[list[ResponseTextPart], Tag("list")],
    by_form("must be a string or a list of text parts"),
]


class ResponseInputMessage(Part):
    """A message of the conversation, or one that was answered before."""

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: Content


class ResponseFunctionCall(Part):
    """A call that the model asked for; `arguments` is a JSON object as text."""

    type: Literal["function_call"]
    call_id: CallId
    name: FunctionName
    arguments: str


class ResponseFunctionCallOutput(Part):
    """What a call came to."""

    type: Literal["function_call_output"]
    call_id: CallId
    output: Content


def _kind(value: Any) -> str | None:
    """Return an item's kind; a message may leave its out."""
    if not isinstance(value, dict):
        return None
    kind = value.get("type", "message" if "role" in value else None)
    return kind if isinstance(kind, str) else None


InputItem = Annotated[
    Annotated[ResponseInputMessage, Tag("message")]
    | Annotated[ResponseFunctionCall, Tag("function_call")]
    | Annotated[ResponseFunctionCallOutput, Tag("function_call_output")],
    Discriminator(
        _kind,
        custom_error_type="item",
        custom_error_message="must be a message, a function_call or a function_call_output",
    ),
]
Input = Annotated[
    Annotated[str, Tag("text")] | Annotated[list[InputItem], Field(min_length=1), Tag("list")],
    by_form("must be a string or a list of items"),
]


class ResponseFunctionTool(Part):
    """A function that the model may ask for; `parameters` is a JSON Schema."""

    type: Literal["function"]
    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ResponseNamedTool(Part):
    """The function that the model must ask for."""

    type: Literal["function"]
    name: FunctionName


ToolChoice = Annotated[
    Annotated[Literal["auto", "none", "required"], Tag("text")]
    | Annotated[ResponseNamedTool, Tag("object")],
    by_form("must be auto, none, required or a function"),
]


class ResponsePlainFormat(Part):
    """Any text."""

    type: Literal["text"]


class ResponseJsonFormat(Part):
    """A JSON object."""

    type: Literal["json_object"]


class ResponseSchemaFormat(Part):
    """JSON that fits a schema."""

    type: Literal["json_schema"]
    name: FunctionName
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class ResponseText(Part):
    """What the text of the answer is like."""

    format: (
        Annotated[
            ResponsePlainFormat | ResponseJsonFormat | ResponseSchemaFormat,
            Field(discriminator="type"),
        ]
        | None
    ) = None


def _no_state(value: Any) -> Any:
    if value:
        raise PydanticCustomError("no_state", NO_STATE)
    return None


Stateful = Annotated[Any, AfterValidator(_no_state), Field(default=None, description=NO_STATE)]


class ResponseCreate(OpenAIBody):
    """The body that asks for a response."""

    input: Input
    instructions: str | None = None
    stream: bool | None = None
    tools: list[ResponseFunctionTool] | None = Field(default=None, max_length=MAX_TOOLS)
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = Field(
        default=None, description="false: the answer has at most one call, the first"
    )
    text: ResponseText | None = None
    max_output_tokens: OutputTokens | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = Field(
        default=None, description="passed over: no response is kept, and the answer says so"
    )
    previous_response_id: Stateful
    conversation: Stateful
    background: Stateful
    prompt: Unsupported
    top_logprobs: Unsupported
    truncation: Literal["disabled"] | None = None
