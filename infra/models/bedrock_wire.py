"""Amazon Bedrock's Converse format: what is asked, and what an answer or its events say."""

from collections.abc import Mapping
from typing import Any, Final

from pydantic_core import to_json

from agentos.domain.errors import InvalidRequestError, ProviderError
from agentos.domain.ports import ChatMessage, FinishReason, ModelRequest
from agentos.infra.models.answer_parts import AnswerParts
from agentos.infra.models.bodies import json_object
from agentos.infra.models.tokens import counted
from agentos.infra.models.tool_names import ToolNames
from agentos.infra.models.turns import system_and_turns, wanted_schema

STOP_REASONS: Final[Mapping[str, FinishReason]] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "guardrail_intervened": "content_filter",
    "content_filtered": "content_filter",
}


def to_converse(request: ModelRequest, names: ToolNames) -> dict[str, Any]:
    """Return the body of a call; a seed is not known to the format and left out."""
    system, turns = system_and_turns(request.messages)
    body: dict[str, Any] = {
        "messages": [
            {
                "role": turn.role,
                "content": [block for each in turn.messages for block in _to_blocks(each, names)],
            }
            for turn in turns
        ]
    }
    if system:
        body["system"] = [{"text": system}]
    if (tools := _to_tools(request, names)) is not None:
        body["toolConfig"] = tools
    wishes = {
        "maxTokens": request.max_output_tokens,
        "temperature": request.temperature,
        "topP": request.top_p,
        "stopSequences": list(request.stop) or None,
    }
    if inference := {name: value for name, value in wishes.items() if value is not None}:
        body["inferenceConfig"] = inference
    if (schema := wanted_schema(request)) is not None:
        structure = {"jsonSchema": {"name": "answer", "schema": to_json(schema).decode()}}
        body["outputConfig"] = {"textFormat": {"type": "json_schema", "structure": structure}}
    return body


def _to_tools(request: ModelRequest, names: ToolNames) -> dict[str, Any] | None:
    if not request.tools:
        return None
    if request.tool_choice == "none":
        if any(message.tool_calls for message in request.messages):
            raise InvalidRequestError(
                "the backend has no tool_choice none in a conversation with tool calls"
            )
        return None
    specs = []
    for offer in request.tools:
        spec = {"name": names.of(offer), "inputSchema": {"json": dict(offer.input_schema)}}
        specs.append({"toolSpec": spec | _described(offer.description)})
    config: dict[str, Any] = {"tools": specs}
    if (choice := request.tool_choice) is not None:
        plain = {"auto": "auto", "required": "any"}.get(choice)
        config["toolChoice"] = {plain: {}} if plain else {"tool": {"name": names.chosen(choice)}}
    return config


def _described(description: str) -> dict[str, str]:
    """Return a description; the format has no empty one."""
    return {"description": description} if description else {}


def _to_blocks(message: ChatMessage, names: ToolNames) -> list[dict[str, Any]]:
    if message.role == "tool":
        # The format has no empty text.
        content = {"text": message.content} if message.content else {"json": {"result": ""}}
        return [{"toolResult": {"toolUseId": message.tool_call_id, "content": [content]}}]
    text = [{"text": message.content}] if message.content else []
    return [
        *text,
        *(
            {
                "toolUse": {
                    "toolUseId": call.tool_call_id,
                    "name": names.of(call),
                    "input": json_object(call.arguments),
                }
            }
            for call in message.tool_calls
        ),
    ]


def add_answer(answer: Mapping[str, Any], parts: AnswerParts) -> None:
    """Add a whole answer."""
    for block in answer["output"]["message"]["content"]:
        if "text" in block:
            parts.add_text(block["text"])
        elif "toolUse" in block:
            asked = block["toolUse"]
            call = parts.new_call(str(asked["toolUseId"]), str(asked["name"]))
            parts.add_arguments(call, to_json(asked["input"]).decode())
    _add_usage(answer["usage"], parts)
    parts.finish_reason = _reason(answer["stopReason"])


def add_event(kind: str, event: Mapping[str, Any], parts: AnswerParts) -> None:
    """Add one event of a stream; `metadata` is the last, unknown kinds are passed over."""
    if kind == "contentBlockStart" and (asked := event["start"].get("toolUse")):
        call = parts.call(event["contentBlockIndex"], str(asked["toolUseId"]))
        call.name = str(asked["name"])
    elif kind == "contentBlockDelta":
        delta = event["delta"]
        if "text" in delta:
            parts.add_text(delta["text"])
        elif "toolUse" in delta:
            call = parts.call(event["contentBlockIndex"], "")
            parts.add_arguments(call, delta["toolUse"]["input"])
    elif kind == "messageStop":
        parts.ending = _reason(event["stopReason"])
    elif kind == "metadata":
        _add_usage(event["usage"], parts)
        parts.finish_reason = parts.ending


def _reason(reason: str) -> FinishReason:
    if reason not in STOP_REASONS:
        raise ProviderError("the model gave up", reason=str(reason)[:100])
    return STOP_REASONS[reason]


def _add_usage(usage: Mapping[str, Any], parts: AnswerParts) -> None:
    """Take the counts; what comes from or goes to the cache is input too."""
    cached = (usage.get(f"cache{way}InputTokens") or 0 for way in ("Read", "Write"))
    parts.input_tokens = counted(usage["inputTokens"], *cached)
    parts.output_tokens = counted(usage["outputTokens"])
