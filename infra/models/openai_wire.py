"""OpenAI's formats of chat completions and embeddings: what is asked, and what an answer says."""

import base64
import struct
from collections.abc import Mapping
from typing import Any, Final

from pydantic_core import to_json

from agentos.domain.errors import ProviderError
from agentos.domain.ports import ChatMessage, EmbedRequest, FinishReason, ModelRequest
from agentos.infra.models.answer_parts import AnswerParts
from agentos.infra.models.tokens import counted
from agentos.infra.models.tool_names import ToolNames

FINISH_REASONS: Final[Mapping[str, FinishReason]] = {
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}
PLAIN_CHOICES: Final = frozenset({"auto", "none", "required"})


def to_chat(
    request: ModelRequest, model: str, names: ToolNames, limit_field: str, *, is_streamed: bool
) -> dict[str, Any]:
    """Return the body of a chat completion; `limit_field` names the output limit."""
    body: dict[str, Any] = {
        "model": model,
        "messages": [_to_message(message, names) for message in request.messages],
    }
    if is_streamed:
        body["stream"] = True
        body["stream_options"] = {"include_usage": True}
    if request.tools:
        body["tools"] = [
            {
                "type": "function",
                "function": {
                    "name": names.of(offer),
                    "description": offer.description,
                    "parameters": dict(offer.input_schema),
                },
            }
            for offer in request.tools
        ]
        if request.tool_choice is not None:
            body["tool_choice"] = _to_choice(request.tool_choice, names)
    if request.max_output_tokens is not None:
        body[limit_field] = request.max_output_tokens
    for field in ("temperature", "top_p", "seed", "response_format"):
        if (value := getattr(request, field)) is not None:
            body[field] = value
    if request.stop:
        body["stop"] = list(request.stop)
    return body


def _to_choice(choice: str, names: ToolNames) -> Any:
    if choice in PLAIN_CHOICES:
        return choice
    return {"type": "function", "function": {"name": names.chosen(choice)}}


def _to_message(message: ChatMessage, names: ToolNames) -> dict[str, Any]:
    wire: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.name is not None:
        wire["name"] = message.name
    if message.tool_call_id is not None:
        wire["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        wire["content"] = message.content or None
        wire["tool_calls"] = [
            {
                "id": call.tool_call_id,
                "type": "function",
                "function": {
                    "name": names.of(call),
                    "arguments": to_json(dict(call.arguments)).decode(),
                },
            }
            for call in message.tool_calls
        ]
    return wire


def add_completion(chunk: Mapping[str, Any], parts: AnswerParts) -> None:
    """Add a chunk of a stream, or a whole completion; only the first choice counts."""
    if chunk.get("error"):
        raise ProviderError("the backend broke off with an error")
    if model := chunk.get("model"):
        parts.model = str(model)
    if usage := chunk.get("usage"):
        parts.input_tokens = counted(usage["prompt_tokens"])
        parts.output_tokens = counted(usage.get("completion_tokens") or 0)
    for choice in chunk["choices"][:1] if "choices" in chunk else ():
        _add_part(choice.get("delta") or choice.get("message") or {}, parts)
        if reason := choice.get("finish_reason"):
            parts.finish_reason = FINISH_REASONS.get(reason, "stop")


def _add_part(part: Mapping[str, Any], parts: AnswerParts) -> None:
    if text := part.get("content") or part.get("refusal"):
        parts.add_text(text)
    for piece in part.get("tool_calls") or ():
        call = parts.call(piece.get("index"), str(piece.get("id") or ""))
        function = piece.get("function") or {}
        call.name += function.get("name") or ""
        parts.add_arguments(call, function.get("arguments") or "")


def to_embedding(request: EmbedRequest, model: str) -> dict[str, Any]:
    """Return the body of an embedding call."""
    body: dict[str, Any] = {"model": model, "input": list(request.texts)}
    if request.dimensions is not None:
        body["dimensions"] = request.dimensions
    return body


def vectors_of(answer: Mapping[str, Any]) -> list[list[float]]:
    """Return the vectors in the order of their texts, from numbers or base64."""
    rows = sorted(answer["data"], key=lambda row: int(row["index"]))
    if [row["index"] for row in rows] != list(range(len(rows))):
        raise ValueError("an embedding is missing or there twice")
    return [to_vector(row["embedding"]) for row in rows]


def to_vector(value: Any) -> list[float]:
    """Return a list of numbers as it is, and base64 of 32-bit floats as numbers."""
    if isinstance(value, list):
        return value
    raw = base64.b64decode(value, validate=True)
    if len(raw) % 4:
        raise ValueError("no whole number of 32-bit floats")
    return list(struct.unpack(f"<{len(raw) // 4}f", raw))
