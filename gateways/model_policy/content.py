"""The texts in a call that policy looks at, by the names of their places, and back in again.

A number is a text, too: a card's number is no less one without quotes. A place has nothing of
what a caller wrote in it but plain names: another name is its number among its siblings.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from agentos.domain.policy.names import FIXED
from agentos.domain.policy.texts import Field, Rewrite, collect, rewritten
from agentos.domain.ports import (
    ChatMessage,
    EmbedRequest,
    ModelRequest,
    RequestedToolCall,
    ToolOffer,
)


def chat_fields(request: ModelRequest) -> list[Field]:
    """Return every text that the model would read, by its place.

    `messages[0].content`, the ids and arguments of earlier tool calls, what is said of the
    tools and their schemas, where to stop, and the form that the answer is to have. The names
    in each of these come last, as one text.
    """
    fields: list[Field] = []
    for index, message in enumerate(request.messages):
        if message.content:
            fields.append((f"messages[{index}].content", message.content))
        if message.name:
            fields.append((f"messages[{index}].name", message.name))
        if message.tool_call_id:
            fields.append((f"messages[{index}].tool_call_id", message.tool_call_id))
        if message.tool_calls:
            place = f"messages[{index}]."
            fields += _call_ids(message.tool_calls, place)
            fields += call_fields(message.tool_calls, place)
    for index, tool in enumerate(request.tools):
        if tool.description:
            fields.append((f"tools[{index}].description", tool.description))
        place = f"tools[{index}]"
        _add(fields, place, tool.input_schema, f"{place}.input_schema", *_names(tool))
    fields += [(f"stop[{index}]", text) for index, text in enumerate(request.stop) if text]
    if request.response_format:
        _add(fields, "response_format", request.response_format, "response_format")
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
    """Return every text in tool calls: `tool_calls[0].arguments.to` …, and their names."""
    fields: list[Field] = []
    for index, call in enumerate(calls):
        place = f"{prefix}tool_calls[{index}]"
        _add(fields, place, call.arguments, f"{place}.arguments", *_names(call))
    return fields


def rewritten_chat(request: ModelRequest, rewrite: Rewrite) -> ModelRequest:
    """Return the request with `rewrite(field, text)` in place of each text."""
    messages = [
        _rewritten_message(message, index, rewrite)
        for index, message in enumerate(request.messages)
    ]
    tools = [_rewritten_tool(tool, index, rewrite) for index, tool in enumerate(request.tools)]
    form = request.response_format
    if form:
        form = rewritten(form, "response_format", rewrite)
    stop = tuple(rewrite(f"stop[{at}]", s) if s else s for at, s in enumerate(request.stop))
    return replace(request, messages=messages, tools=tools, response_format=form, stop=stop)


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
            arguments=rewritten(call.arguments, f"{prefix}tool_calls[{index}].arguments", rewrite),
        )
        for index, call in enumerate(calls)
    )


def _rewritten_message(message: ChatMessage, index: int, rewrite: Rewrite) -> ChatMessage:
    content, place = message.content, f"messages[{index}]"
    calls = tuple(
        replace(call, tool_call_id=_rewritten_id(field, call.tool_call_id, rewrite))
        for call, (field, _) in zip(
            message.tool_calls, _call_ids(message.tool_calls, f"{place}."), strict=True
        )
    )
    call_id = message.tool_call_id
    return replace(
        message,
        tool_call_id=_rewritten_id(f"{place}.tool_call_id", call_id, rewrite) if call_id else None,
        content=rewrite(f"{place}.content", content) if content else content,
        name=rewrite(f"{place}.name", message.name) if message.name else message.name,
        tool_calls=rewritten_calls(calls, rewrite, f"{place}."),
    )


def _rewritten_tool(tool: ToolOffer, index: int, rewrite: Rewrite) -> ToolOffer:
    place, said = f"tools[{index}]", tool.description
    return replace(
        tool,
        description=rewrite(f"{place}.description", said) if said else said,
        input_schema=rewritten(tool.input_schema, f"{place}.input_schema", rewrite),
    )


def _call_ids(calls: Sequence[RequestedToolCall], prefix: str) -> list[Field]:
    return [
        (f"{prefix}tool_calls[{index}].tool_call_id", call.tool_call_id)
        for index, call in enumerate(calls)
    ]


def _rewritten_id(field: str, call_id: str, rewrite: Rewrite) -> str:
    """Return the id, or another one: still the same in the call and in its result."""
    if rewrite(field, call_id) == call_id:
        return call_id
    return "call_" + hashlib.sha256(call_id.encode("utf-8", "surrogatepass")).hexdigest()[:24]


def _names(tool: ToolOffer | RequestedToolCall) -> tuple[str, ...]:
    """Return a tool's name and id: of which of them a backend makes the name is its own affair."""
    return (tool.name, tool.tool_id)


def _add(fields: list[Field], place: str, value: Any, path: str, *names: str) -> None:
    """Add the texts in a value, and behind them its names as one text: each once, in a line."""
    found = dict.fromkeys(names)
    collect(value, path, fields, found)
    fields.append((place + FIXED, "\n".join(found)))
