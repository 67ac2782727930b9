"""Gemini's generateContent format: what is asked, and what an answer says."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from pydantic_core import from_json, to_json

from agentos.domain.errors import ProviderError
from agentos.domain.ports import ChatMessage, EmbedRequest, FinishReason, ModelRequest
from agentos.infra.models.answer_parts import AnswerParts
from agentos.infra.models.bodies import json_object
from agentos.infra.models.tokens import counted
from agentos.infra.models.tool_names import ToolNames
from agentos.infra.models.turns import Turn, system_and_turns, wanted_schema

FINISH_REASONS: Final[Mapping[str, FinishReason]] = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "SAFETY": "content_filter",
    "RECITATION": "content_filter",
    "BLOCKLIST": "content_filter",
    "PROHIBITED_CONTENT": "content_filter",
    "SPII": "content_filter",
    "MODEL_ARMOR": "content_filter",
}
MODES: Final = {"auto": "AUTO", "none": "NONE", "required": "ANY"}
# Gemini 3 refuses earlier calls without the signature it gave them, or this word in its place.
NO_SIGNATURE: Final = "skip_thought_signature_validator"


def to_content(request: ModelRequest, model: str, names: ToolNames) -> dict[str, Any]:
    """Return the body of a call."""
    system, turns = system_and_turns(request.messages)
    called = {c.tool_call_id: names.of(c) for m in request.messages for c in m.tool_calls}
    signature = NO_SIGNATURE if model.startswith("gemini-3") else None
    body: dict[str, Any] = {
        "contents": [_to_turn(turn, names, called, signature) for turn in turns],
    }
    if system:
        body["systemInstruction"] = {"parts": [{"text": system}]}
    if request.tools:
        declared = [
            {
                "name": names.of(offer),
                "description": offer.description,
                "parametersJsonSchema": dict(offer.input_schema),
            }
            for offer in request.tools
        ]
        body["tools"] = [{"functionDeclarations": declared}]
        if request.tool_choice is not None:
            config = _to_choice(request.tool_choice, names)
            body["toolConfig"] = {"functionCallingConfig": config}
    if generation := _to_generation(request):
        body["generationConfig"] = generation
    return body


def _to_choice(choice: str, names: ToolNames) -> dict[str, Any]:
    if mode := MODES.get(choice):
        return {"mode": mode}
    return {"mode": "ANY", "allowedFunctionNames": [names.chosen(choice)]}


def _to_generation(request: ModelRequest) -> dict[str, Any]:
    wishes: dict[str, Any] = {
        "maxOutputTokens": request.max_output_tokens,
        "temperature": request.temperature,
        "topP": request.top_p,
        "seed": request.seed,
        "stopSequences": list(request.stop) or None,
    }
    schema = wanted_schema(request, knows_json_object=True)
    if schema is not None:
        wishes["responseMimeType"] = "application/json"
        wishes["responseJsonSchema"] = schema or None
    return {name: value for name, value in wishes.items() if value is not None}


def _to_turn(
    turn: Turn, names: ToolNames, called: Mapping[str, str], signature: str | None
) -> dict[str, Any]:
    parts: list[dict[str, Any]] = []
    for message in turn.messages:
        if message.role == "tool":
            parts.append(_to_result(message, called))
        elif message.content:
            parts.append({"text": message.content})
        for call in message.tool_calls:
            function = {"name": names.of(call), "args": json_object(call.arguments)}
            part: dict[str, Any] = {"functionCall": function}
            parts.append(part | {"thoughtSignature": signature} if signature else part)
    return {"role": "model" if turn.role == "assistant" else "user", "parts": parts}


def _to_result(message: ChatMessage, called: Mapping[str, str]) -> dict[str, Any]:
    """Return a tool's result, which has to be an object and to name its function."""
    value: Any = message.content
    # Policy saw the text as it stands: what an escape hides in it is not to come out of it here.
    if "\\" not in message.content:
        with suppress(ValueError):
            value = from_json(message.content, allow_inf_nan=False)
    name = called.get(message.tool_call_id or "", "unknown")
    response = json_object(value if isinstance(value, dict) else {"result": value})
    return {"functionResponse": {"name": name, "response": response}}


def add_content(chunk: Mapping[str, Any], parts: AnswerParts) -> None:
    """Add a whole answer, or one of a stream; thoughts are left out of the text."""
    if chunk.get("error"):
        raise ProviderError("the backend broke off with an error")
    if model := chunk.get("modelVersion"):
        parts.model = str(model)
    if usage := chunk.get("usageMetadata"):
        _add_usage(usage, parts)
    if (chunk.get("promptFeedback") or {}).get("blockReason"):
        parts.finish_reason = "content_filter"
    for candidate in (chunk.get("candidates") or ())[:1]:
        for part in (candidate.get("content") or {}).get("parts") or ():
            _add_part(part, parts)
        if reason := candidate.get("finishReason"):
            if reason not in FINISH_REASONS:
                raise ProviderError("the model gave up", reason=str(reason)[:100])
            parts.finish_reason = FINISH_REASONS[reason]


def _add_part(part: Mapping[str, Any], parts: AnswerParts) -> None:
    if (function := part.get("functionCall")) is not None:
        call = parts.new_call("", str(function["name"]))
        parts.add_arguments(call, to_json(function.get("args") or {}).decode())
    elif "text" in part and not part.get("thought"):
        parts.add_text(part["text"])


def _add_usage(usage: Mapping[str, Any], parts: AnswerParts) -> None:
    parts.input_tokens = counted(usage.get("promptTokenCount") or 0)
    answered = usage.get("candidatesTokenCount"), usage.get("thoughtsTokenCount")
    if answered != (None, None):
        parts.output_tokens = counted(*(count or 0 for count in answered))


def to_embeddings(request: EmbedRequest, model: str) -> dict[str, Any]:
    """Return the body of a batch of embedding calls."""
    size = {} if request.dimensions is None else {"outputDimensionality": request.dimensions}
    return {
        "requests": [
            {"model": f"models/{model}", "content": {"parts": [{"text": text}]}, **size}
            for text in request.texts
        ]
    }


def vectors_of(answer: Mapping[str, Any]) -> tuple[list[list[float]], int | None]:
    """Return the vectors; the format counts no tokens."""
    embeddings: Sequence[Mapping[str, Any]] = answer["embeddings"]
    return [one["values"] for one in embeddings], None
