"""A streamed response as OpenAI's named events, numbered from 0."""

from typing import Any

import orjson

from agentos.domain.errors import AgentOSError
from agentos.gateways.model_policy.calls import Completed
from agentos.gateways.model_policy.openai.errors import openai_error
from agentos.gateways.model_policy.openai.responses_answers import (
    Json,
    ResponseObject,
    text_part,
)


class ResponseEvents:
    """The events of one response: `Frames` of its stream."""

    def __init__(self, response: ResponseObject) -> None:
        self._response = response
        self._number = 0
        self._texts: list[str] = []
        self._sent = 0
        self._opened = False
        self._has_message = False
        self._place = {"item_id": f"msg_{response.key}", "output_index": 0, "content_index": 0}

    def text(self, delta: str) -> bytes:
        """Return the event of a piece of text, behind those that open the answer."""
        opening = b"" if self._has_message else self._open_message()
        self._sent += len(delta)
        return opening + self._event(
            "response.output_text.delta", **self._place, delta=delta, logprobs=[]
        )

    def rest(self, done: Completed, correlation_id: str) -> bytes:
        """Return everything behind the text, to the end."""
        missing = done.answer.content[self._sent :]
        calls = self._response.calls(done)
        frames = [] if self._opened else [self._open()]
        if missing or not (calls or self._has_message):
            frames.append(self.text(missing))
        if self._has_message:
            frames.append(self._close_message(done.answer.content))
        first = 1 if self._has_message else 0
        frames += [self._call(item, first + at) for at, item in enumerate(calls)]
        ended = self._response.ended(done, correlation_id)
        frames.append(self._event(f"response.{ended['status']}", response=ended))
        return b"".join(frames)

    def failure(self, error: AgentOSError, correlation_id: str) -> bytes:
        """Return `response.failed`, and the `error` event at which the client raises."""
        told = openai_error(error, correlation_id)
        about = {name: told["error"][name] for name in ("code", "message", "param")}
        return self._event("response.failed", response=self._response.failed(error)) + self._event(
            "error", **about, **told
        )

    def _open(self) -> bytes:
        self._opened = True
        begun = self._response.begun()
        return self._event("response.created", response=begun) + self._event(
            "response.in_progress", response=begun
        )

    def _open_message(self) -> bytes:
        opening = b"" if self._opened else self._open()
        self._has_message = True
        item = self._response.message([], "in_progress")
        return (
            opening
            + self._event("response.output_item.added", output_index=0, item=item)
            + self._event("response.content_part.added", **self._place, part=text_part(""))
        )

    def _close_message(self, text: str) -> bytes:
        part = text_part(text)
        item = self._response.message([part])
        return (
            self._event("response.output_text.done", **self._place, text=text, logprobs=[])
            + self._event("response.content_part.done", **self._place, part=part)
            + self._event("response.output_item.done", output_index=0, item=item)
        )

    def _call(self, item: Json, at: int) -> bytes:
        place = {"item_id": item["id"], "output_index": at}
        empty = {**item, "status": "in_progress", "arguments": ""}
        arguments = item["arguments"]
        spelled = "response.function_call_arguments"
        return (
            self._event("response.output_item.added", output_index=at, item=empty)
            + self._event(f"{spelled}.delta", **place, delta=arguments)
            + self._event(f"{spelled}.done", **place, name=item["name"], arguments=arguments)
            + self._event("response.output_item.done", output_index=at, item=item)
        )

    def _event(self, name: str, /, **members: Any) -> bytes:
        event = {"type": name, "sequence_number": self._number, **members}
        self._number += 1
        return b"event: %b\ndata: %b\n\n" % (name.encode(), orjson.dumps(event, default=str))
