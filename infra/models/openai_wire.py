"""OpenAI's chat completion format: what is asked, and how an answer is put together."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic_core import from_json, to_json

from agentos.domain.errors import ProviderError
from agentos.domain.ids import derived_id
from agentos.domain.ports import ChatMessage, ModelRequest, RequestedToolCall, Usage
from agentos.infra.models.openai_names import function_name, tool_id_of
from agentos.infra.models.tokens import estimate_usage

MAX_ANSWER_CHARACTERS: Final = 1024 * 1024
MAX_TOOL_CALLS: Final = 128


def to_body(request: ModelRequest, model: str, limit_field: str) -> bytes:
    """Return the body of a streamed chat completion; `limit_field` names the output limit."""
    body: dict[str, Any] = {
        "model": model,
        "messages": [_to_message(message) for message in request.messages],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if request.tools:
        body["tools"] = [
            {
                "type": "function",
                "function": {
                    "name": function_name(spec.tool_id),
                    "description": spec.description,
                    "parameters": dict(spec.input_schema),
                },
            }
            for spec in request.tools
        ]
    if request.max_output_tokens is not None:
        body[limit_field] = request.max_output_tokens
    return to_json(body)


def _to_message(message: ChatMessage) -> dict[str, Any]:
    wire: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_call_id is not None:
        wire["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        wire["content"] = message.content or None
        wire["tool_calls"] = [
            {
                "id": call.tool_call_id,
                "type": "function",
                "function": {
                    "name": function_name(call.tool_id),
                    "arguments": to_json(dict(call.arguments)).decode(),
                },
            }
            for call in message.tool_calls
        ]
    return wire


@dataclass(slots=True)
class _CallParts:
    """A tool call while its pieces arrive."""

    provider_id: str
    name: str = ""
    arguments: str = ""


class AnswerParts:
    """An answer while it arrives, as chunks of a stream or whole; every oddity is an error."""

    def __init__(self, on_delta: Callable[[str], None] | None) -> None:
        self._on_delta = on_delta
        self._texts: list[str] = []
        self._calls: list[_CallParts] = []
        self._by_index: dict[int, _CallParts] = {}
        self._characters = 0
        self._usage: Usage | None = None
        self._model = ""
        self.finished = False

    def add_json(self, data: bytes) -> None:
        """Take one chunk, or a whole completion; `ProviderError` if it is neither."""
        try:
            chunk = from_json(data)
            self._add(chunk)
        except (ValueError, TypeError, KeyError, AttributeError, IndexError) as exc:
            raise ProviderError("the backend's answer is not in OpenAI's format") from exc

    def _add(self, chunk: Mapping[str, Any]) -> None:
        if chunk.get("error"):
            raise ProviderError("the backend broke off with an error", stage="stream")
        self._model = str(chunk.get("model") or self._model)
        if usage := chunk.get("usage"):
            counts = int(usage["prompt_tokens"]), int(usage.get("completion_tokens") or 0)
            self._usage = Usage(max(0, counts[0]), max(0, counts[1]))
        for choice in chunk["choices"][:1] if "choices" in chunk else ():
            self._add_part(choice.get("delta") or choice.get("message") or {})
            if choice.get("finish_reason"):
                self.finished = True

    def _add_part(self, part: Mapping[str, Any]) -> None:
        text = part.get("content") or part.get("refusal")
        if text:
            if not isinstance(text, str):
                raise TypeError("content is no text")
            self._count(text)
            self._texts.append(text)
            if self._on_delta is not None:
                self._on_delta(text)
        for piece in part.get("tool_calls") or ():
            call = self._call_of(piece.get("index"), str(piece.get("id") or ""))
            function = piece.get("function") or {}
            call.name += function.get("name") or ""
            arguments = function.get("arguments") or ""
            call.arguments += arguments
            self._count(arguments)

    def _call_of(self, index: int | None, provider_id: str) -> _CallParts:
        """Return the call that a piece belongs to; servers differ in what they leave out."""
        known = self._by_index.get(index) if index is not None else None
        if known is None and index is None and not provider_id and self._calls:
            known = self._calls[-1]
        if known is None or (provider_id and provider_id != known.provider_id):
            if len(self._calls) >= MAX_TOOL_CALLS:
                raise ProviderError("the model asked for too many tool calls", retryable=False)
            known = _CallParts(provider_id)
            self._calls.append(known)
        if index is not None:
            self._by_index[index] = known
        return known

    def _count(self, text: str) -> None:
        self._characters += len(text)
        if self._characters > MAX_ANSWER_CHARACTERS:
            raise ProviderError("the backend's answer is too long", retryable=False)

    @property
    def model(self) -> str:
        """The name by which the backend calls the model that answered."""
        return self._model

    def content(self) -> str:
        """Return the text so far."""
        return "".join(self._texts)

    def tool_calls(self, request: ModelRequest) -> tuple[RequestedToolCall, ...]:
        """Return the calls asked for; `ProviderError` when one's arguments are no JSON object.

        Their ids are made from the request's id, not taken over: a tool sees the id as its
        idempotency key, and there are servers that begin at `call_0` in every answer.
        """
        return tuple(
            _to_call(call, derived_id("tcall", request.request_id, str(number)), request)
            for number, call in enumerate(self._calls)
        )

    def usage(self, request: ModelRequest, calls: Sequence[RequestedToolCall]) -> Usage:
        """Return the backend's count, or an estimate where it sent none."""
        return self._usage or estimate_usage(request.messages, self.content(), calls)


def _to_call(call: _CallParts, tool_call_id: str, request: ModelRequest) -> RequestedToolCall:
    try:
        arguments = from_json(call.arguments or "{}", allow_inf_nan=False)
    except ValueError as exc:
        raise ProviderError("the model asked for a tool call with broken arguments") from exc
    if not isinstance(arguments, dict) or not call.name:
        raise ProviderError("the model asked for a tool call without a name or arguments")
    tool_id = tool_id_of(call.name, request)
    return RequestedToolCall(tool_call_id, tool_id, tool_id, arguments)
