"""A model's answer while it arrives, in pieces or whole, whatever server it comes from."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import orjson
from pydantic_core import from_json

from agentos.domain.errors import AgentOSError, ProviderError
from agentos.domain.ids import derived_id
from agentos.domain.ports import (
    FinishReason,
    ModelAnswer,
    ModelRequest,
    OnDelta,
    RequestedToolCall,
    Usage,
)
from agentos.infra.models.tokens import estimate_usage
from agentos.infra.models.tool_names import ToolNames

MAX_ANSWER_CHARACTERS: Final = 1024 * 1024
MAX_TOOL_CALLS: Final = 128
WRONG_SHAPE: Final = (ValueError, TypeError, KeyError, AttributeError, IndexError)


@dataclass(slots=True)
class CallParts:
    """A tool call while its pieces arrive; `arguments` is the text of a JSON object."""

    provider_id: str
    name: str = ""
    arguments: str = ""


class AnswerParts:
    """Puts an answer together; every oddity is a `ProviderError`.

    `finish_reason` stays `None` until the server says that the answer is complete, and the
    counts of tokens until it names them. `ending` is the reason that was said before the end.
    """

    def __init__(self, request: ModelRequest, names: ToolNames, on_delta: OnDelta | None) -> None:
        self._request = request
        self._names = names
        self._on_delta = on_delta
        self._texts: list[str] = []
        self._told = 0
        self._calls: list[CallParts] = []
        self._by_index: dict[int, CallParts] = {}
        self._characters = 0
        self.input_tokens: int | None = None
        self.output_tokens: int | None = None
        self.model = ""
        self.ending: FinishReason | None = None
        self.finish_reason: FinishReason | None = None

    def take(self, data: bytes, fold: Callable[[Any, "AnswerParts"], None]) -> None:
        """Let `fold` add what stands in a piece of JSON, and hand out its text."""
        try:
            fold(orjson.loads(data), self)
        except WRONG_SHAPE:
            raise ProviderError("the backend's answer is not in its format") from None
        if self._on_delta is not None:
            for text in self._texts[self._told :]:
                self._on_delta(text)
            self._told = len(self._texts)

    def add_text(self, text: str) -> None:
        """Take a piece of the text; `TypeError` if it is none."""
        if not isinstance(text, str):
            raise TypeError("content is no text")
        if text:
            self._count(text)
            self._texts.append(text)

    def call(self, index: int | None, provider_id: str) -> CallParts:
        """Return the call that a piece belongs to; servers differ in what they leave out."""
        known = self._by_index.get(index) if index is not None else None
        if known is None and index is None and not provider_id and self._calls:
            known = self._calls[-1]
        if known is None or (provider_id and provider_id != known.provider_id):
            known = self.new_call(provider_id)
        if index is not None:
            self._by_index[index] = known
        return known

    def new_call(self, provider_id: str, name: str = "") -> CallParts:
        """Return a call that begins here; `ProviderError` behind the 128th."""
        if len(self._calls) >= MAX_TOOL_CALLS:
            raise ProviderError("the model asked for too many tool calls", retryable=False)
        call = CallParts(provider_id, name)
        self._calls.append(call)
        return call

    def add_arguments(self, call: CallParts, piece: str) -> None:
        """Take a piece of a call's arguments."""
        if piece:
            call.arguments += piece
            self._count(piece)

    def answer(self, backend: str, model: str) -> ModelAnswer:
        """Return the whole; `ProviderError` when it is not complete or a call's JSON is broken."""
        reason = self.finish_reason
        if reason is None:
            raise ProviderError("the backend's answer ended before it was complete")
        calls = self._tool_calls() if self._calls else ()
        if calls and reason == "stop":
            reason = "tool_calls"
        return ModelAnswer(
            content=self._content(),
            tool_calls=calls,
            usage=self._usage(calls),
            backend=backend,
            model=self.model or model,
            finish_reason=reason,
        )

    def marked(self, error: AgentOSError) -> AgentOSError:
        """Return `error` with its stage, and with what is known to be used if text had come."""
        if self._on_delta is not None and self._characters:
            usage = self._usage(())
            error.details["stage"] = "stream"
            error.details["usage"] = {
                "input_tokens": usage.input_tokens,
                "output_tokens": usage.output_tokens,
            }
        else:
            error.details.setdefault("stage", "answer")
        return error

    def _count(self, text: str) -> None:
        self._characters += len(text)
        if self._characters > MAX_ANSWER_CHARACTERS:
            raise ProviderError("the backend's answer is too long", retryable=False)

    def _content(self) -> str:
        return self._texts[0] if len(self._texts) == 1 else "".join(self._texts)

    def _usage(self, calls: tuple[RequestedToolCall, ...]) -> Usage:
        """Return the server's counts, and an estimate for each that it did not send."""
        if self.input_tokens is not None and self.output_tokens is not None:
            return Usage(self.input_tokens, self.output_tokens)
        guess = estimate_usage(self._request.messages, self._content(), calls)
        return Usage(
            guess.input_tokens if self.input_tokens is None else self.input_tokens,
            guess.output_tokens if self.output_tokens is None else self.output_tokens,
        )

    def _tool_calls(self) -> tuple[RequestedToolCall, ...]:
        """Return the calls asked for.

        Their ids are made from the request's id, not taken over: a tool sees the id as its
        idempotency key, and there are servers that begin at `call_0` in every answer.
        """
        request_id = self._request.request_id
        return tuple(
            self._to_call(call, derived_id("tcall", request_id, str(number)))
            for number, call in enumerate(self._calls)
        )

    def _to_call(self, call: CallParts, tool_call_id: str) -> RequestedToolCall:
        try:
            arguments = from_json(call.arguments or "{}", allow_inf_nan=False)
            orjson.dumps(arguments)  # not of more than 64 bits, nor too deep to be handed on
        except (ValueError, TypeError):
            raise ProviderError("the model asked for a tool call with broken arguments") from None
        if not isinstance(arguments, dict) or not call.name:
            raise ProviderError("the model asked for a tool call without a name or arguments")
        tool_id, name = self._names.back(call.name)
        return RequestedToolCall(tool_call_id, tool_id, name, arguments)
