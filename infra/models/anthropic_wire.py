"""Anthropic's Messages format: what is asked, and what an answer or its events say."""

from collections.abc import Mapping
from typing import Any, Final

from pydantic_core import to_json

from agentos.domain.errors import ProviderError
from agentos.domain.ports import ChatMessage, FinishReason, ModelRequest
from agentos.infra.models.answer_parts import AnswerParts
from agentos.infra.models.bodies import json_object
from agentos.infra.models.tokens import counted
from agentos.infra.models.tool_names import ToolNames
from agentos.infra.models.turns import system_and_turns, wanted_schema

# The format wants a limit; this one is asked for where the caller names none.
DEFAULT_MAX_TOKENS: Final = 4096
STOP_REASONS: Final[Mapping[str, FinishReason]] = {
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
CHOICES: Final = {"auto": "auto", "none": "none", "required": "any"}


def to_messages(
    request: ModelRequest, model: str, names: ToolNames, *, is_streamed: bool
) -> dict[str, Any]:
    """Return the body of a call; a seed is not known to the format and left out."""
    system, turns = system_and_turns(request.messages)
    limit = request.max_output_tokens
    body: dict[str, Any] = {
        "model": model,
        "max_tokens": DEFAULT_MAX_TOKENS if limit is None else limit,
        "messages": [
            {
                "role": turn.role,
                "content": [block for each in turn.messages for block in _to_blocks(each, names)],
            }
            for turn in turns
        ],
    }
    if system:
        body["system"] = system
    if is_streamed:
        body["stream"] = True
    if request.tools:
        body["tools"] = [
            {
                "name": names.of(offer),
                "description": offer.description,
                "input_schema": dict(offer.input_schema),
            }
            for offer in request.tools
        ]
        if (choice := request.tool_choice) is not None:
            kind = CHOICES.get(choice)
            body["tool_choice"] = (
                {"type": kind} if kind else {"type": "tool", "name": names.chosen(choice)}
            )
    if request.temperature is not None:
        body["temperature"] = request.temperature
    if request.top_p is not None:
        body["top_p"] = request.top_p
    if request.stop:
        body["stop_sequences"] = list(request.stop)
    if (schema := wanted_schema(request)) is not None:
        body["output_config"] = {"format": {"type": "json_schema", "schema": schema}}
    return body


def _to_blocks(message: ChatMessage, names: ToolNames) -> list[dict[str, Any]]:
    if message.role == "tool":
        return [
            {
                "type": "tool_result",
                "tool_use_id": message.tool_call_id,
                "content": message.content,
            }
        ]
    text = [{"type": "text", "text": message.content}] if message.content else []
    return [
        *text,
        *(
            {
                "type": "tool_use",
                "id": call.tool_call_id,
                "name": names.of(call),
                "input": json_object(call.arguments),
            }
            for call in message.tool_calls
        ),
    ]


def add_message(message: Mapping[str, Any], parts: AnswerParts) -> None:
    """Add a whole answer."""
    if message.get("type") == "error":
        raise ProviderError("the backend answered with an error")
    parts.model = str(message["model"])
    _add_usage(message["usage"], parts)
    for index, block in enumerate(message["content"]):
        _begin_block(index, block, parts)
        if block["type"] == "tool_use":
            parts.add_arguments(parts.call(index, ""), to_json(block["input"]).decode())
    if reason := message["stop_reason"]:
        parts.finish_reason = STOP_REASONS.get(reason, "stop")


def add_event(event: Mapping[str, Any], parts: AnswerParts) -> None:
    """Add one event of a stream; kinds that are not known are passed over, as the format asks."""
    match event["type"]:
        case "message_start":
            parts.model = str(event["message"]["model"])
            usage = event["message"]["usage"]
            _add_usage({**usage, "output_tokens": None}, parts)
        case "content_block_start":
            _begin_block(event["index"], event["content_block"], parts)
        case "content_block_delta":
            _add_delta(event["index"], event["delta"], parts)
        case "message_delta":
            _add_usage(event["usage"], parts)
            if reason := event["delta"].get("stop_reason"):
                parts.ending = STOP_REASONS.get(reason, "stop")
        case "message_stop":
            parts.finish_reason = parts.ending
        case "error":
            raise ProviderError("the backend broke off with an error")


def _begin_block(index: int, block: Mapping[str, Any], parts: AnswerParts) -> None:
    if block["type"] == "text":
        parts.add_text(block["text"])
    elif block["type"] == "tool_use":
        parts.call(index, str(block["id"])).name = str(block["name"])


def _add_delta(index: int, delta: Mapping[str, Any], parts: AnswerParts) -> None:
    if delta["type"] == "text_delta":
        parts.add_text(delta["text"])
    elif delta["type"] == "input_json_delta":
        parts.add_arguments(parts.call(index, ""), delta["partial_json"])


def _add_usage(usage: Mapping[str, Any], parts: AnswerParts) -> None:
    """Take the counts that are there; what comes from or goes to the cache is input too."""
    if (asked := usage.get("input_tokens")) is not None:
        cached = (usage.get(f"cache_{way}_input_tokens") or 0 for way in ("creation", "read"))
        parts.input_tokens = counted(asked, *cached)
    if (answered := usage.get("output_tokens")) is not None:
        parts.output_tokens = counted(answered)
