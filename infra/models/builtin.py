"""The builtin models: deterministic, offline, and free.

All of them answer the last user message. They keep no state: the same messages have the same
answer, in every process. `max_output_tokens` cuts the text, at four characters a token.
"""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from agentos.domain.auth import AuthContext
from agentos.domain.errors import (
    BY_CODE,
    AgentOSError,
    InvalidRequestError,
    ModelFailedError,
    TimedOutError,
)
from agentos.domain.ids import derived_id
from agentos.domain.ports import (
    EmbedAnswer,
    EmbedRequest,
    FinishReason,
    ModelAnswer,
    ModelRequest,
    OnDelta,
    RequestedToolCall,
    Usage,
)
from agentos.infra.models.hashed import DIMENSIONS, hashed_vectors
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
from agentos.infra.models.tokens import (
    CHARACTERS_PER_TOKEN,
    estimate_usage,
    stream_words,
    tokens_of,
)

BACKEND: Final = "builtin"
CHAT_MODELS: Final = ("echo", "scripted", "sleep")
EMBED_MODEL: Final = "embed"


class BuiltinBackend:
    """`ModelBackend` of the models `echo`, `scripted` and `sleep`, and of the embedder `embed`."""

    def __init__(self, name: str = "builtin") -> None:
        self._name = name
        self._models: dict[str, Callable[[ModelRequest, OnDelta | None], Awaitable[ModelAnswer]]]
        self._models = {"echo": echo, "scripted": run_script, "sleep": sleep}

    async def chat(
        self, auth: AuthContext, model: str, request: ModelRequest, on_delta: OnDelta | None = None
    ) -> ModelAnswer:
        """Answer; `InvalidRequestError` for a model that is none of the three."""
        answer = self._models.get(model)
        if answer is None:
            raise self._no_such(model, "chat", CHAT_MODELS)
        told: list[str] = []

        def tell(text: str) -> None:
            told.append(text)
            if on_delta is not None:
                on_delta(text)

        try:
            made = await answer(request, tell if on_delta is not None else None)
        except AgentOSError as error:
            error.details.update(_how_far(request, "".join(told)))
            raise
        return made if self._name == made.backend else replace(made, backend=self._name)

    async def embed(self, auth: AuthContext, model: str, request: EmbedRequest) -> EmbedAnswer:
        """Return unit vectors of 64 dimensions; `InvalidRequestError` for any other wish."""
        if model != EMBED_MODEL:
            raise self._no_such(model, "embed", (EMBED_MODEL,))
        if request.dimensions not in (None, DIMENSIONS):
            raise InvalidRequestError(
                "builtin/embed has one size of vectors", dimensions=DIMENSIONS, stage="answer"
            )
        vectors = await hashed_vectors(request.texts)
        return EmbedAnswer(vectors, Usage(tokens_of(request.texts), 0), self._name, EMBED_MODEL)

    async def probe(self) -> None:
        """Return: it is there."""

    async def aclose(self) -> None:
        """Return at once: nothing is held open."""

    def _no_such(self, model: str, operation: str, known: tuple[str, ...]) -> InvalidRequestError:
        return InvalidRequestError(
            f"no builtin model of that name can {operation}",
            backend=self._name,
            model=model[:200],
            known=list(known),
            stage="answer",
        )


async def echo(request: ModelRequest, on_delta: OnDelta | None) -> ModelAnswer:
    """Answer with the last user message."""
    text = _last_user(request)[0]
    cut = _cut(text, request)
    if on_delta is not None:
        stream_words(cut, on_delta)
    return _answer(request, "echo", cut, is_cut=len(cut) < len(text))


async def sleep(request: ModelRequest, on_delta: OnDelta | None) -> ModelAnswer:
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
    text = "\n".join(others) if any(others) else f"slept {total:g} ms"
    cut = _cut(text, request)
    if on_delta is not None:
        stream_words(cut, on_delta)
    return _answer(request, "sleep", cut, is_cut=len(cut) < len(text))


async def run_script(request: ModelRequest, on_delta: OnDelta | None) -> ModelAnswer:
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


async def _finish(request: ModelRequest, turn: _Turn, on_delta: OnDelta | None) -> ModelAnswer:
    results = iter(turn.results)
    parts: list[str] = []
    room = _room(request)
    is_cut = False
    for index, line in enumerate(turn.script):
        if isinstance(line, Sleep | Fail):
            if index >= turn.start:
                await _take(line, turn.deadline)
            continue
        text = line.text if isinstance(line, Text) else next(results, "")
        whole = f"\n{text}" if parts else text
        piece = whole[:room]
        is_cut = is_cut or len(piece) < len(whole)
        room -= len(piece)
        parts.append(piece)
        if on_delta is not None:
            stream_words(piece, on_delta)
    return _answer(request, "scripted", "".join(parts), is_cut=is_cut)


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


def _how_far(request: ModelRequest, told: str) -> dict[str, Any]:
    """Return the details of a failure behind the text that was told by then."""
    if not told:
        return {"stage": "answer"}
    usage = estimate_usage(request.messages, told, ())
    used = {"input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens}
    return {"stage": "stream", "usage": used}


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
    request: ModelRequest,
    model: str,
    text: str,
    calls: tuple[RequestedToolCall, ...] = (),
    *,
    is_cut: bool = False,
) -> ModelAnswer:
    usage = estimate_usage(request.messages, text, calls)
    reason: FinishReason = "tool_calls" if calls else "length" if is_cut else "stop"
    return ModelAnswer(text, calls, usage, BACKEND, model, finish_reason=reason)
