"""A pipeline in memory that really answers: what the last user message says to do, or its echo."""

import asyncio
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from agentos.domain.errors import BY_CODE, ConflictError, InvalidRequestError, QuotaExceededError
from agentos.domain.ids import derived_id
from agentos.domain.ports import (
    ChatMessage,
    EmbedAnswer,
    EmbedRequest,
    FinishReason,
    ModelAnswer,
    ModelRequest,
    OnDelta,
    RequestedToolCall,
    Usage,
)
from agentos.gateways.model_policy.calls import Begun, Caller, Completed, Embedded, OnBegun, Outcome

WORD = re.compile(r"\s*\S+\s*|\s+")


@dataclass
class EchoPipeline:
    """Lines that it obeys: `say …`, `call <tool> <json>`, `fail <code> <details>`, `wait`.

    Any other message is echoed, word by word where it is streamed. Behind a tool's answer it
    says what the tools said. A call with a fingerprint is answered once.
    """

    asked: list[tuple[Caller, ModelRequest]] = field(default_factory=list)
    embedded: list[EmbedRequest] = field(default_factory=list)
    waiting: asyncio.Event = field(default_factory=asyncio.Event)
    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    stopped: asyncio.Event = field(default_factory=asyncio.Event)
    answers: dict[str, tuple[str, Completed]] = field(default_factory=dict)

    async def chat(
        self,
        caller: Caller,
        request: ModelRequest,
        on_delta: OnDelta | None = None,
        on_begun: OnBegun | None = None,
    ) -> Completed:
        """Answer a conversation."""
        if request.model_ref == "unknown/model":
            raise InvalidRequestError("no such model", model_ref=request.model_ref)
        known = self.answers.get(request.request_id) if caller.fingerprint else None
        if known is not None:
            if known[0] != caller.fingerprint:
                raise ConflictError("the key was used for another body")
            return known[1]
        self.asked.append((caller, request))
        if on_begun is not None:
            on_begun(Begun("memory", "echo", "allowed"))
        texts, calls = await self._obey(request, on_delta or (lambda _: None))
        done = Completed(_answer(request, "".join(texts), calls), _outcome(request.request_id))
        if caller.fingerprint is not None:
            self.answers[request.request_id] = (caller.fingerprint, done)
        return done

    async def _obey(
        self, request: ModelRequest, on_delta: OnDelta
    ) -> tuple[list[str], list[RequestedToolCall]]:
        texts: list[str] = []
        calls: list[RequestedToolCall] = []

        def say(text: str) -> None:
            for match in WORD.finditer(text):
                texts.append(match[0])
                on_delta(match[0])

        tools = [m.content for m in request.messages if m.role == "tool"]
        if request.messages[-1].role == "tool":
            say("the tools said " + " and ".join(tools))
            return texts, calls
        last = _last_user(request.messages)
        for line in last.split("\n"):
            word, _, rest = line.partition(" ")
            match word:
                case "say":
                    say(rest)
                case "call":
                    calls.append(_call(request, rest, len(calls)))
                case "fail":
                    code, _, details = rest.partition(" ")
                    raise BY_CODE[code](f"told to fail: {code}", **json.loads(details or "{}"))
                case "flood":
                    for _ in range(int(rest)):
                        on_delta("x" * 1000)
                case "wait":
                    await self._wait()
        if not texts and not calls:
            say(last)
        return texts, calls

    async def _wait(self) -> None:
        self.waiting.set()
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.stopped.set()
            raise

    async def embed(self, caller: Caller, request: EmbedRequest) -> Embedded:
        """Return a vector for each text that follows from it."""
        if "wait" in request.texts:
            await self._wait()
        if request.texts[0] == "too much":
            raise QuotaExceededError("spent", limit=1, used=1, window="day", retryable=False)
        self.embedded.append(request)
        size = request.dimensions or 8
        vectors = [vector_of(text, size) for text in request.texts]
        usage = Usage(sum(map(_tokens, request.texts)), 0)
        answer = EmbedAnswer(vectors, usage, "memory", "hash")
        return Embedded(answer, replace(_outcome(request.request_id), model="hash"))


def vector_of(text: str, size: int) -> list[float]:
    """Return numbers in [0, 1) that float32 holds exactly."""
    digest = hashlib.sha256(text.encode()).digest() * (size // 32 + 1)
    return [byte / 256 for byte in digest[:size]]


def _call(request: ModelRequest, line: str, number: int) -> RequestedToolCall:
    name, _, arguments = line.partition(" ")
    call_id = derived_id("tcall", request.request_id, str(number))
    return RequestedToolCall(call_id, name, name, json.loads(arguments or "{}"))


def _last_user(messages: Sequence[ChatMessage]) -> str:
    return next((m.content for m in reversed(messages) if m.role == "user"), "")


def _tokens(text: str) -> int:
    return -(-len(text) // 4)


def _answer(request: ModelRequest, text: str, calls: Sequence[RequestedToolCall]) -> ModelAnswer:
    finish: FinishReason = "stop"
    if request.max_output_tokens is not None and _tokens(text) > request.max_output_tokens:
        text, finish = text[: request.max_output_tokens * 4], "length"
    usage = Usage(sum(_tokens(m.content) for m in request.messages), _tokens(text))
    return ModelAnswer(text, tuple(calls), usage, "memory", "echo", 0.25, False, finish)


def _outcome(request_id: str) -> Outcome:
    return Outcome(
        request_id=request_id,
        decision="allowed",
        reasons=("pol_default@1",),
        redactions=(),
        backend="memory",
        model="echo",
        node="stk_local",
        fallback_used=False,
        latency_ms=3,
        cost_usd=0.25,
    )
