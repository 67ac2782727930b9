"""Chat completions as OpenAI's clients read them: whole, and chunk by chunk."""

import time
from collections.abc import Sequence
from typing import Any, Final

import orjson

from agentos.domain.errors import AgentOSError
from agentos.domain.ports import ModelAnswer, RequestedToolCall, Usage
from agentos.gateways.model_policy.calls import Completed
from agentos.gateways.model_policy.openai.answers import model_id, own_member
from agentos.gateways.model_policy.openai.errors import error_frame
from agentos.gateways.model_policy.openai.tools import arguments_text, at_most_one

DONE: Final = b"data: [DONE]\n\n"


def completion_id(request_id: str) -> str:
    """Return the completion's id: the request's, in OpenAI's dress."""
    return "chatcmpl-" + request_id.removeprefix("req_")


def completion(done: Completed, correlation_id: str, parallel: bool | None) -> bytes:
    """Return the whole answer."""
    answer = done.answer
    calls = at_most_one(answer.tool_calls, parallel)
    message: dict[str, Any] = {"role": "assistant", "content": answer.content, "refusal": None}
    if calls:
        message["content"] = answer.content or None
        message["tool_calls"] = [_tool_call(call) for call in calls]
    choice = {
        "index": 0,
        "message": message,
        "logprobs": None,
        "finish_reason": finish_reason(answer),
    }
    return orjson.dumps(
        {
            "id": completion_id(done.outcome.request_id),
            "object": "chat.completion",
            "created": int(time.time()),
            "model": model_id(done.outcome),
            "choices": [choice],
            "usage": _usage(answer.usage),
            "agentos": own_member(done.outcome, correlation_id),
        }
    )


def finish_reason(answer: ModelAnswer) -> str:
    """Return why the answer ended; one that asks for tools ended for them."""
    is_plain = answer.finish_reason == "stop"
    return "tool_calls" if answer.tool_calls and is_plain else answer.finish_reason


def _tool_call(call: RequestedToolCall) -> dict[str, Any]:
    return {
        "id": call.tool_call_id,
        "type": "function",
        "function": {"name": call.name, "arguments": arguments_text(call)},
    }


def _usage(usage: Usage) -> dict[str, int]:
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
    }


class Chunks:
    """The chunks of one streamed completion; `model` is the one that was asked for."""

    def __init__(
        self, request_id: str, model: str, *, include_usage: bool, parallel: bool | None
    ) -> None:
        self._head = {
            "id": completion_id(request_id),
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": model,
        }
        self._include_usage = include_usage
        self._parallel = parallel
        self._opened = False
        self._sent = 0
        # All but the text is the same in every chunk of text.
        blank = orjson.dumps(self._chunk({"content": 0}))
        self._before, self._after = blank.split(b'"content":0')

    def text(self, delta: str) -> bytes:
        """Return the chunk of a piece of text, behind the one that opens the answer."""
        opening = b"" if self._opened else self.opening()
        self._sent += len(delta)
        text = orjson.dumps(delta)
        return b'%bdata: %b"content":%b%b\n\n' % (opening, self._before, text, self._after)

    def opening(self) -> bytes:
        """Return the chunk that says whose answer it is."""
        self._opened = True
        return self._frame(self._chunk({"role": "assistant", "content": "", "refusal": None}))

    def rest(self, done: Completed, correlation_id: str) -> bytes:
        """Return everything behind the text: calls, end, usage, and `agentos` in the last."""
        answer = done.answer
        missing = answer.content[self._sent :]
        frames = [self.text(missing)] if missing else [] if self._opened else [self.opening()]
        frames += self._calls(at_most_one(answer.tool_calls, self._parallel))
        last = self._chunk({}, finish_reason(answer))
        if self._include_usage:
            frames.append(self._frame(last))
            last = {**self._head, "choices": [], "usage": _usage(answer.usage)}
        last["model"] = model_id(done.outcome)
        last["agentos"] = own_member(done.outcome, correlation_id)
        return b"".join([*frames, self._frame(last), DONE])

    def failure(self, error: AgentOSError, correlation_id: str) -> bytes:
        """Return the event at which the client raises; no end of the answer, no `[DONE]`."""
        return error_frame(error, correlation_id)

    def _calls(self, calls: Sequence[RequestedToolCall]) -> list[bytes]:
        return [
            self._frame(self._chunk({"tool_calls": [{"index": at, **_tool_call(call)}]}))
            for at, call in enumerate(calls)
        ]

    def _chunk(self, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        usage = {"usage": None} if self._include_usage else {}
        return {**self._head, "choices": [choice], **usage}

    @staticmethod
    def _frame(chunk: dict[str, Any]) -> bytes:
        return b"data: %b\n\n" % orjson.dumps(chunk)
