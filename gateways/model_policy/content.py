"""The texts in a call that policy looks at, by the names of their places, and back in again."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from agentos.domain.ports import (
    ChatMessage,
    EmbedRequest,
    ModelRequest,
    RequestedToolCall,
    ToolOffer,
)

Field = tuple[str, str]
Rewrite = Callable[[str, str], str]


def chat_fields(request: ModelRequest) -> list[Field]:
    """Return every text that the model would read, by its place.

    `messages[0].content`, the arguments of earlier tool calls, what is said of the tools and
    their schemas, and the form that the answer is to have.
    """
    fields: list[Field] = []
    for index, message in enumerate(request.messages):
        if message.content:
            fields.append((f"messages[{index}].content", message.content))
        if message.name:
            fields.append((f"messages[{index}].name", message.name))
        if message.tool_calls:
            fields += call_fields(message.tool_calls, f"messages[{index}].")
    for index, tool in enumerate(request.tools):
        if tool.description:
            fields.append((f"tools[{index}].description", tool.description))
        fields += _texts(tool.input_schema, f"tools[{index}].input_schema")
    if request.response_format:
        fields += _texts(request.response_format, "response_format")
    return fields


def tool_output_fields(request: ModelRequest) -> list[Field]:
    """Return what tools answered, among the messages."""
    return [
        (f"messages[{index}].content", message.content)
        for index, message in enumerate(request.messages)
        if message.role == "tool" and message.content
    ]


def embed_fields(request: EmbedRequest) -> list[Field]:
    """Return `texts[0]` …"""
    return [(f"texts[{index}]", text) for index, text in enumerate(request.texts)]


def call_fields(calls: Sequence[RequestedToolCall], prefix: str = "") -> list[Field]:
    """Return every text in the arguments of tool calls: `tool_calls[0].arguments.to` …"""
    return [
        field
        for index, call in enumerate(calls)
        for field in _texts(call.arguments, f"{prefix}tool_calls[{index}].arguments")
    ]


def rewritten_chat(request: ModelRequest, rewrite: Rewrite) -> ModelRequest:
    """Return the request with `rewrite(field, text)` in place of each text."""
    messages = [
        _rewritten_message(message, index, rewrite)
        for index, message in enumerate(request.messages)
    ]
    tools = [_rewritten_tool(tool, index, rewrite) for index, tool in enumerate(request.tools)]
    form = request.response_format
    if form:
        form = _rewritten(form, "response_format", rewrite)
    return replace(request, messages=messages, tools=tools, response_format=form)


def rewritten_embed(request: EmbedRequest, rewrite: Rewrite) -> EmbedRequest:
    """Return the request with each text rewritten."""
    texts = [rewrite(f"texts[{index}]", text) for index, text in enumerate(request.texts)]
    return replace(request, texts=texts)


def rewritten_calls(
    calls: Sequence[RequestedToolCall], rewrite: Rewrite, prefix: str = ""
) -> tuple[RequestedToolCall, ...]:
    """Return tool calls with the texts in their arguments rewritten."""
    return tuple(
        replace(
            call,
            arguments=_rewritten(call.arguments, f"{prefix}tool_calls[{index}].arguments", rewrite),
        )
        for index, call in enumerate(calls)
    )


def _rewritten_message(message: ChatMessage, index: int, rewrite: Rewrite) -> ChatMessage:
    content = message.content
    return replace(
        message,
        content=rewrite(f"messages[{index}].content", content) if content else content,
        name=rewrite(f"messages[{index}].name", message.name) if message.name else message.name,
        tool_calls=rewritten_calls(message.tool_calls, rewrite, f"messages[{index}]."),
    )


def _rewritten_tool(tool: ToolOffer, index: int, rewrite: Rewrite) -> ToolOffer:
    place, said = f"tools[{index}]", tool.description
    return replace(
        tool,
        description=rewrite(f"{place}.description", said) if said else said,
        input_schema=_rewritten(tool.input_schema, f"{place}.input_schema", rewrite),
    )


def _texts(value: Any, path: str) -> Iterator[Field]:
    if isinstance(value, str):
        if value:
            yield path, value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _texts(inner, f"{path}.{name}")
    elif isinstance(value, Sequence):
        for index, inner in enumerate(value):
            yield from _texts(inner, f"{path}[{index}]")


def _rewritten(value: Any, path: str, rewrite: Rewrite) -> Any:
    if isinstance(value, str):
        return rewrite(path, value) if value else value
    if isinstance(value, Mapping):
        return {n: _rewritten(inner, f"{path}.{n}", rewrite) for n, inner in value.items()}
    if isinstance(value, Sequence):
        return [_rewritten(inner, f"{path}[{i}]", rewrite) for i, inner in enumerate(value)]
    return value
