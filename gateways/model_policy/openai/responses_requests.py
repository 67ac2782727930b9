"""From the body of a response to the call that the pipeline makes."""

from typing import Any

from agentos.domain.ports import ChatMessage, ModelRequest
from agentos.gateways.model_policy.openai.responses_bodies import (
    ResponseCreate,
    ResponseFunctionCall,
    ResponseInputMessage,
    ResponseNamedTool,
    ResponsePlainFormat,
    ResponseSchemaFormat,
    ResponseTextPart,
)
from agentos.gateways.model_policy.openai.tools import (
    Function,
    require_schema,
    to_call,
    to_choice,
    to_offers,
)


def to_request(body: ResponseCreate, request_id: str) -> ModelRequest:
    """Return the call; `InvalidRequestError` names the place that does not fit."""
    tools = to_offers(
        [
            Function(tool.name, tool.description, tool.parameters, ("tools", at))
            for at, tool in enumerate(body.tools or ())
        ]
    )
    choice = body.tool_choice
    named = choice.name if isinstance(choice, ResponseNamedTool) else choice
    return ModelRequest(
        request_id=request_id,
        model_ref=body.model,
        messages=_messages(body),
        tools=tools,
        max_output_tokens=body.max_output_tokens,
        tool_choice=to_choice(named, tools, ("tool_choice",)),
        temperature=body.temperature,
        top_p=body.top_p,
        response_format=_response_format(body),
    )


def _messages(body: ResponseCreate) -> list[ChatMessage]:
    """Return the conversation: calls side by side are one message of the assistant."""
    found = [ChatMessage("system", body.instructions)] if body.instructions else []
    if isinstance(body.input, str):
        return [*found, ChatMessage("user", body.input)]
    for at, item in enumerate(body.input):
        match item:
            case ResponseInputMessage():
                role = "system" if item.role == "developer" else item.role
                found.append(ChatMessage(role, _text_of(item.content)))
            case ResponseFunctionCall():
                _add_call(found, item, at)
            case _:
                text = _text_of(item.output)
                found.append(ChatMessage("tool", text, tool_call_id=item.call_id))
    return found


def _add_call(found: list[ChatMessage], item: ResponseFunctionCall, at: int) -> None:
    call = to_call(item.call_id, item.name, item.arguments, ("input", at))
    last = found[-1] if found else None
    if last is not None and last.role == "assistant":
        found[-1] = ChatMessage("assistant", last.content, tool_calls=(*last.tool_calls, call))
    else:
        found.append(ChatMessage("assistant", "", tool_calls=(call,)))


def _text_of(content: str | list[ResponseTextPart]) -> str:
    if isinstance(content, str):
        return content
    return "\n".join([part.text for part in content])


def _response_format(body: ResponseCreate) -> dict[str, Any] | None:
    """Return the format as chat completions spell it."""
    wanted = None if body.text is None else body.text.format
    if wanted is None or isinstance(wanted, ResponsePlainFormat):
        return None
    if not isinstance(wanted, ResponseSchemaFormat):
        return {"type": "json_object"}
    require_schema(wanted.schema_, ("text", "format", "schema"))
    schema = wanted.model_dump(by_alias=True, exclude_none=True, exclude={"type"})
    return {"type": "json_schema", "json_schema": schema}
