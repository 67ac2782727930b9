"""From the body of a chat completion to the call that the pipeline makes."""

from typing import Any

from agentos.domain.ports import ChatMessage, ModelRequest, RequestedToolCall
from agentos.gateways.model_policy.openai.chat_bodies import (
    ChatAssistantMessage,
    ChatCompletionCreate,
    ChatNamedTool,
    ChatSchemaFormat,
    ChatTextFormat,
    ChatTextPart,
    ChatToolMessage,
    Message,
)
from agentos.gateways.model_policy.openai.tools import (
    Function,
    misplaced,
    require_schema,
    to_call,
    to_choice,
    to_offers,
)


def to_request(body: ChatCompletionCreate, request_id: str) -> ModelRequest:
    """Return the call; `InvalidRequestError` names the place that does not fit."""
    tools = to_offers(
        [
            Function(
                tool.function.name,
                tool.function.description,
                tool.function.parameters,
                ("tools", at, "function"),
            )
            for at, tool in enumerate(body.tools or ())
        ]
    )
    choice = body.tool_choice
    named = choice.function.name if isinstance(choice, ChatNamedTool) else choice
    stop = body.stop
    return ModelRequest(
        request_id=request_id,
        model_ref=body.model,
        messages=[_to_message(message, at) for at, message in enumerate(body.messages)],
        tools=tools,
        max_output_tokens=_output_tokens(body),
        tool_choice=to_choice(named, tools, ("tool_choice",)),
        temperature=body.temperature,
        top_p=body.top_p,
        stop=(stop,) if isinstance(stop, str) else tuple(stop or ()),
        seed=body.seed,
        response_format=_response_format(body),
    )


def _to_message(message: Message, at: int) -> ChatMessage:
    content = text_of(message.content)
    match message:
        case ChatAssistantMessage():
            calls = tuple(_to_calls(message, at)) if message.tool_calls else ()
            content = content or message.refusal or ""
            return ChatMessage("assistant", content, tool_calls=calls, name=message.name)
        case ChatToolMessage():
            return ChatMessage("tool", content, tool_call_id=message.tool_call_id)
        case _:
            role = "system" if message.role == "developer" else message.role
            return ChatMessage(role, content, name=message.name)


def text_of(content: str | list[ChatTextPart] | None) -> str:
    """Return a content as one text: its parts are separated by a line break."""
    if isinstance(content, str):
        return content
    return "\n".join([part.text for part in content or ()])


def _to_calls(message: ChatAssistantMessage, at: int) -> list[RequestedToolCall]:
    return [
        to_call(
            call.id,
            call.function.name,
            call.function.arguments,
            ("messages", at, "tool_calls", number, "function"),
        )
        for number, call in enumerate(message.tool_calls or ())
    ]


def _output_tokens(body: ChatCompletionCreate) -> int | None:
    old, new = body.max_tokens, body.max_completion_tokens
    if old is not None and new is not None and old != new:
        raise misplaced(("max_tokens",), "is not the same as max_completion_tokens")
    return old if new is None else new


def _response_format(body: ChatCompletionCreate) -> dict[str, Any] | None:
    wanted = body.response_format
    if wanted is None or isinstance(wanted, ChatTextFormat):
        return None
    if isinstance(wanted, ChatSchemaFormat) and wanted.json_schema.schema_ is not None:
        place = ("response_format", "json_schema", "schema")
        require_schema(wanted.json_schema.schema_, place)
    return wanted.model_dump(by_alias=True, exclude_none=True)
