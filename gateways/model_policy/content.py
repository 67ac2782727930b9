"""The texts in a call that policy looks at, by the names of their places, and back in again."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from agentos.domain.ports import ChatMessage, EmbedRequest, ModelRequest, RequestedToolCall

Field = tuple[str, str]
Rewrite = Callable[[str, str], str]


def chat_fields(request: ModelRequest) -> list[Field]:
    """Return `messages[0].content` … and the texts in the arguments of earlier tool calls."""
    fields: list[Field] = []
    for index, message in enumerate(request.messages):
        if message.content:
            fields.append((f"messages[{index}].content", message.content))
        if message.tool_calls:
            fields += call_fields(message.tool_calls, f"messages[{index}].")
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
    return replace(request, messages=messages)


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
        tool_calls=rewritten_calls(message.tool_calls, rewrite, f"messages[{index}]."),
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
