"""The body of a chat completion, for the document and the parsing."""

from typing import Annotated, Any, Literal

from pydantic import Field, Tag

from agentos.gateways.model_policy.openai.fields import (
    MAX_SEED,
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


class ChatTextPart(Part):
    """A part of a message's content; only text is taken."""

    type: Literal["text"]
    text: str


StopText = Annotated[str, Field(min_length=1, max_length=1024)]
Content = Annotated[
    Annotated[str, Tag("text")] | Annotated[list[ChatTextPart], Tag("list")],
    by_form("must be a string or a list of text parts"),
]


class ChatSystemMessage(Part):
    """What the model is told; `developer` is another word for `system`."""

    role: Literal["system", "developer"]
    content: Content
    name: str | None = None


class ChatUserMessage(Part):
    """What the user says."""

    role: Literal["user"]
    content: Content
    name: str | None = None


class ChatFunctionCall(Part):
    """The function that was called; `arguments` is a JSON object as text."""

    name: FunctionName
    arguments: str


class ChatToolCall(Part):
    """A call that the model asked for."""

    id: CallId
    type: Literal["function"] = "function"
    function: ChatFunctionCall


class ChatAssistantMessage(Part):
    """What the model said before."""

    role: Literal["assistant"]
    content: Content | None = None
    refusal: str | None = None
    tool_calls: list[ChatToolCall] | None = Field(default=None, max_length=MAX_TOOLS)
    name: str | None = None
    function_call: Unsupported


class ChatToolMessage(Part):
    """What a tool answered."""

    role: Literal["tool"]
    content: Content
    tool_call_id: CallId


Message = Annotated[
    ChatSystemMessage | ChatUserMessage | ChatAssistantMessage | ChatToolMessage,
    Field(discriminator="role"),
]


class ChatFunction(Part):
    """A function that the model may ask for; `parameters` is a JSON Schema."""

    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None


class ChatTool(Part):
    """A tool that the model may ask for."""

    type: Literal["function"]
    function: ChatFunction


class ChatNamed(Part):
    """The function that the model must ask for."""

    name: FunctionName


class ChatNamedTool(Part):
    """The tool that the model must ask for."""

    type: Literal["function"]
    function: ChatNamed


class ChatTextFormat(Part):
    """Any text."""

    type: Literal["text"]


class ChatJsonFormat(Part):
    """A JSON object."""

    type: Literal["json_object"]


class ChatSchema(Part):
    """The JSON Schema that an answer must fit."""

    name: FunctionName
    description: str | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None


class ChatSchemaFormat(Part):
    """JSON that fits a schema."""

    type: Literal["json_schema"]
    json_schema: ChatSchema


class ChatStreamOptions(Part):
    """What a stream has besides the answer."""

    include_usage: bool | None = None


ToolChoice = Annotated[
    Annotated[Literal["auto", "none", "required"], Tag("text")]
    | Annotated[ChatNamedTool, Tag("object")],
    by_form("must be auto, none, required or a function"),
]
Stop = Annotated[
    Annotated[StopText, Tag("text")] | Annotated[list[StopText], Field(max_length=4), Tag("list")],
    by_form("must be a string or a list of up to 4"),
]


class ChatCompletionCreate(OpenAIBody):
    """The body that asks for a chat completion."""

    messages: list[Message] = Field(min_length=1)
    stream: bool | None = None
    stream_options: ChatStreamOptions | None = None
    tools: list[ChatTool] | None = Field(default=None, max_length=MAX_TOOLS)
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = Field(
        default=None, description="false: the answer has at most one call, the first"
    )
    response_format: (
        Annotated[ChatTextFormat | ChatJsonFormat | ChatSchemaFormat, Field(discriminator="type")]
        | None
    ) = None
    max_tokens: OutputTokens | None = None
    max_completion_tokens: OutputTokens | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    stop: Stop | None = None
    seed: int | None = Field(default=None, ge=-MAX_SEED - 1, le=MAX_SEED)
    n: Literal[1] | None = None
    logprobs: Unsupported
    top_logprobs: Unsupported
    logit_bias: Unsupported
    frequency_penalty: Unsupported
    presence_penalty: Unsupported
    functions: Unsupported
    function_call: Unsupported
    modalities: list[Literal["text"]] | None = None
    audio: Unsupported
    web_search_options: Unsupported
