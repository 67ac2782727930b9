"""Responses as OpenAI's clients read them: the object, and its output's items."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from agentos.domain.errors import AgentOSError
from agentos.domain.ports import RequestedToolCall, Usage
from agentos.gateways.model_policy.calls import Completed
from agentos.gateways.model_policy.openai.answers import model_id, own_member
from agentos.gateways.model_policy.openai.responses_bodies import ResponseCreate
from agentos.gateways.model_policy.openai.tools import arguments_text, at_most_one

Json = dict[str, Any]


class ResponseObject:
    """The object of one response, from its beginning to its end. `key` is in every item's id."""

    def __init__(self, body: ResponseCreate, request_id: str) -> None:
        self.key = request_id.removeprefix("req_")
        self._parallel = body.parallel_tool_calls
        self._blank: Json = {
            "id": f"resp_{self.key}",
            "object": "response",
            "created_at": int(time.time()),
            "status": "in_progress",
            "background": False,
            "error": None,
            "incomplete_details": None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "model": body.model,
            "output": [],
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": None,
            "store": False,
            "temperature": body.temperature,
            "text": {"format": _text_format(body)},
            "tool_choice": _tool_choice(body),
            "tools": [_tool(tool.model_dump()) for tool in body.tools or ()],
            "top_p": body.top_p,
            "truncation": "disabled",
            "usage": None,
            "metadata": body.metadata or {},
        }

    def begun(self) -> Json:
        """Return the object before anything is in it."""
        return self._blank

    def failed(self, error: AgentOSError) -> Json:
        """Return the object of an answer that broke off."""
        return {
            **self._blank,
            "status": "failed",
            "error": {"code": error.code, "message": error.message},
        }

    def ended(self, done: Completed, correlation_id: str) -> Json:
        """Return the whole object."""
        reason = {"length": "max_output_tokens", "content_filter": "content_filter"}.get(
            done.answer.finish_reason
        )
        return {
            **self._blank,
            "status": "completed" if reason is None else "incomplete",
            "incomplete_details": None if reason is None else {"reason": reason},
            "model": model_id(done.outcome),
            "output": self.items(done),
            "usage": _usage(done.answer.usage),
            "agentos": own_member(done.outcome, correlation_id),
        }

    def items(self, done: Completed) -> list[Json]:
        """Return the output: the message, where there is text, and the calls."""
        calls = self.calls(done)
        text = done.answer.content
        messages = [self.message([text_part(text)])] if text or not calls else []
        return [*messages, *calls]

    def calls(self, done: Completed) -> list[Json]:
        """Return the items of the calls that are asked for."""
        calls: Sequence[RequestedToolCall] = at_most_one(done.answer.tool_calls, self._parallel)
        return [
            {
                "id": f"fc_{self.key}_{at}",
                "type": "function_call",
                "status": "completed",
                "call_id": call.tool_call_id,
                "name": call.name,
                "arguments": arguments_text(call),
            }
            for at, call in enumerate(calls)
        ]

    def message(self, content: Sequence[Json], status: str = "completed") -> Json:
        """Return the item of the answer's text."""
        return {
            "id": f"msg_{self.key}",
            "type": "message",
            "status": status,
            "role": "assistant",
            "content": list(content),
        }

    def whole(self, done: Completed, correlation_id: str) -> bytes:
        """Return the whole answer."""
        return orjson.dumps(self.ended(done, correlation_id))


def text_part(text: str) -> Json:
    """Return the content part that a text is."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _usage(usage: Usage) -> Json:
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.total_tokens,
    }


def _text_format(body: ResponseCreate) -> Json:
    if body.text is None or body.text.format is None:
        return {"type": "text"}
    return body.text.format.model_dump(by_alias=True, exclude_none=True)


def _tool_choice(body: ResponseCreate) -> Any:
    choice = body.tool_choice
    return choice or "auto" if isinstance(choice, str | None) else choice.model_dump()


def _tool(tool: Mapping[str, Any]) -> Json:
    return {**tool, "strict": bool(tool["strict"])}
