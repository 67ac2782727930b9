"""The builtin models: deterministic, offline, and free.

All of them answer the last user message. They keep no state: the same messages have the same
answer, in every process. `max_output_tokens` cuts the text, at four characters a token.
"""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from agentos.domain.auth import AuthContext
from agentos.domain.errors import (
    BY_CODE,
    AgentOSError,
    InvalidRequestError,
    ModelFailedError,
    TimedOutError,
)
from agentos.domain.ids import derived_id
from agentos.domain.ports import ModelAnswer, ModelRequest, RequestedToolCall
from agentos.infra.models.script import (
    Call,
    Fail,
    Line,
    Sleep,
    Text,
    lines_left,
    parallel_calls,
    parse_script,
    parse_sleep,
)
from agentos.infra.models.tokens import CHARACTERS_PER_TOKEN, estimate_usage, stream_words

OnDelta = Callable[[str], None] | None

BACKEND: Final = "builtin"


class BuiltinModels:
    """`builtin/echo`, `builtin/scripted` and `builtin/sleep`."""

    def __init__(self) -> None:
        self._models: dict[str, Callable[[ModelRequest, OnDelta], Awaitable[ModelAnswer]]] = {
            "echo": echo,
            "scripted": run_script,
            "sleep": sleep,
        }

    async def invoke(
        self, auth: AuthContext, request: ModelRequest, on_delta: OnDelta = None
    ) -> ModelAnswer:
        """Answer; `InvalidRequestError` for a name that is none of the three."""
        name = request.model_ref.partition("/")[2]
        model = self._models.get(name)
        if model is None:
            raise InvalidRequestError(
                "no such builtin model", model_ref=request.model_ref, known=sorted(self._models)
            )
        return await model(request, on_delta)

    async def aclose(self) -> None:
        """Return at once: nothing is held open."""


async def echo(request: ModelRequest, on_delta: OnDelta) -> ModelAnswer:
    """Answer with the last user message."""
    text = _cut(_last_user(request)[0], request)
    if on_delta is not None:
        stream_words(text, on_delta)
    return _answer(request, "echo", text)


async def sleep(request: ModelRequest, on_delta: OnDelta) -> ModelAnswer:
    """Sleep as long as the lines `sleep <ms>` say together, and answer with the other lines.

    Where there are no others it answers `slept <ms> ms`. A sleep that goes over the request's
    timeout is a `TimedOutError` when the timeout is up. Cancellation stops it at once.
    """
    deadline = _deadline(request)
    lines = [(line, parse_sleep(line)) for line in _last_user(request)[0].split("\n")]
    total = sum(ms for _, ms in lines if ms is not None)
    if any(ms is not None for _, ms in lines):
        await _pause(total, deadline)
    others = [line for line, ms in lines if ms is None]
    text = _cut("\n".join(others) if any(others) else f"slept {total:g} ms", request)
    if on_delta is not None:
        stream_words(text, on_delta)
    return _answer(request, "sleep", text)


async def run_script(request: ModelRequest, on_delta: OnDelta) -> ModelAnswer:
    """Walk the script in the last user message (grammar: `script.py`) one answer further.

    Call lines directly below one another are asked for in one answer, whose text is empty.
    The tool messages behind the user message say how many calls were answered: these are not
    asked for again, and pauses and failures above them are not repeated. Behind the last line
    the answer is the text lines in order, each call's result in the place of its line. It is
    streamed up to each remaining pause before that pause.

    Raises the failure that a `fail` line names, `TimedOutError` when the pauses of one answer
    go over the request's timeout.
    """
    deadline = _deadline(request)
    text, results = _last_user(request)
    script = parse_script(text)
    start = lines_left(script, len(results))
    ask = next((i for i in range(start, len(script)) if isinstance(script[i], Call)), None)
    if ask is None:
        return await _finish(request, _Turn(script, results, start, deadline), on_delta)
    for line in script[start:ask]:
        await _take(line, deadline)
    calls = parallel_calls(script, ask)
    return _answer(request, "scripted", "", _requested(request, calls, len(results)))


@dataclass(frozen=True, slots=True)
class _Turn:
    """Where a script stands: the calls' results, and the first line that was not taken yet."""

    script: Sequence[Line]
    results: Sequence[str]
    start: int
    deadline: float


async def _finish(request: ModelRequest, turn: _Turn, on_delta: OnDelta) -> ModelAnswer:
    results = iter(turn.results)
    parts: list[str] = []
    room = _room(request)
    for index, line in enumerate(turn.script):
        if isinstance(line, Sleep | Fail):
            if index >= turn.start:
                await _take(line, turn.deadline)
            continue
        text = line.text if isinstance(line, Text) else next(results, "")
        piece = (f"\n{text}" if parts else text)[:room]
        room -= len(piece)
        parts.append(piece)
        if on_delta is not None:
            stream_words(piece, on_delta)
    return _answer(request, "scripted", "".join(parts))


async def _take(line: Line, deadline: float) -> None:
    if isinstance(line, Sleep):
        await _pause(line.ms, deadline)
    elif isinstance(line, Fail):
        raise _failure(line.code)


async def _pause(ms: float, deadline: float) -> None:
    left = deadline - time.monotonic()
    if ms / 1000 > left:
        await asyncio.sleep(max(0.0, left))
        raise TimedOutError("the model sleeps longer than its time limit")
    await asyncio.sleep(ms / 1000)


def _failure(code: str) -> AgentOSError:
    kind = BY_CODE.get(code)
    if kind is None:
        return ModelFailedError("the script says to fail", code=code)
    return kind("the script says to fail")


def _requested(
    request: ModelRequest, calls: Sequence[Call], answered: int
) -> tuple[RequestedToolCall, ...]:
    return tuple(
        RequestedToolCall(
            tool_call_id=derived_id("tcall", request.request_id, str(number)),
            tool_id=call.tool_id,
            name=call.tool_id,
            arguments=call.arguments,
        )
        for number, call in enumerate(calls, answered)
    )


def _last_user(request: ModelRequest) -> tuple[str, list[str]]:
    """Return the last user text and the tool results behind it."""
    results: list[str] = []
    for message in reversed(request.messages):
        if message.role == "user":
            return message.content, results[::-1]
        if message.role == "tool":
            results.append(message.content)
    return "", results[::-1]


def _room(request: ModelRequest) -> int:
    """Return how many characters the answer may have."""
    limit = request.max_output_tokens
    return sys.maxsize if limit is None else limit * CHARACTERS_PER_TOKEN


def _cut(text: str, request: ModelRequest) -> str:
    return text if request.max_output_tokens is None else text[: _room(request)]


def _deadline(request: ModelRequest) -> float:
    return time.monotonic() + request.timeout_ms / 1000


def _answer(
    request: ModelRequest, model: str, text: str, calls: tuple[RequestedToolCall, ...] = ()
) -> ModelAnswer:
    usage = estimate_usage(request.messages, text, calls)
    return ModelAnswer(text, calls, usage, BACKEND, model)
