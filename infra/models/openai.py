"""Any server that speaks OpenAI's chat completions and embeddings over HTTP."""

import re
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any, Final

from agentos.domain.auth import AuthContext
from agentos.domain.errors import AgentOSError, ProviderError
from agentos.domain.ids import derived_id
from agentos.domain.ports import EmbedAnswer, EmbedRequest, ModelAnswer, ModelRequest, OnDelta
from agentos.infra.models.answer_parts import AnswerParts
from agentos.infra.models.bodies import encode
from agentos.infra.models.embeddings import Parsed, embed_answer
from agentos.infra.models.incoming import Incoming
from agentos.infra.models.openai_wire import add_completion, to_chat, to_embedding, vectors_of
from agentos.infra.models.reading import other_format, read_embeddings
from agentos.infra.models.tokens import counted
from agentos.infra.models.tool_names import ToolNames
from agentos.infra.models.upstream import Upstream

_OWN_REQUEST_ID: Final = re.compile(r"req_[0-9A-HJKMNP-TV-Z]{26}\Z")
_DONE: Final = b"[DONE]"


class OpenAIBackend:
    """`ModelBackend` for openai, ollama, vllm, tgi, LM Studio and their like."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._chat_url = upstream.url / "chat/completions"
        self._embed_url = upstream.url / "embeddings"
        self._models_url = upstream.url / "models"
        is_openai = upstream.url.host == "api.openai.com"
        self._limit_field = "max_completion_tokens" if is_openai else "max_tokens"

    async def chat(
        self, auth: AuthContext, model: str, request: ModelRequest, on_delta: OnDelta | None = None
    ) -> ModelAnswer:
        """Make one chat completion, streamed if somebody listens; as `ModelBackend.chat`.

        Whether the server streams or answers whole, both are understood.
        """
        names = ToolNames(request)
        body = to_chat(request, model, names, self._limit_field, is_streamed=on_delta is not None)
        parts = AnswerParts(request, names, on_delta)

        try:
            await self._upstream.call(
                self._chat_url,
                encode(body),
                lambda incoming: _read(incoming, parts),
                timeout_ms=request.timeout_ms,
                headers=_headers(auth, request.request_id),
            )
            return parts.answer(self._upstream.name, model)
        except AgentOSError as error:
            raise parts.marked(error)  # noqa: B904 - the same error

    async def embed(self, auth: AuthContext, model: str, request: EmbedRequest) -> EmbedAnswer:
        """Make one embedding call; as `ModelBackend.embed`."""
        body = await self._upstream.call(
            self._embed_url,
            encode(to_embedding(request, model)),
            read_embeddings,
            timeout_ms=request.timeout_ms,
            headers=_headers(auth, request.request_id),
        )
        return embed_answer(body, _parse_embeddings, request, self._upstream.name, model)

    async def probe(self) -> None:
        """Ask for the list of models; as `ModelBackend.probe`."""
        await self._upstream.probe(self._models_url)

    async def aclose(self) -> None:
        """Close every connection."""
        await self._upstream.aclose()


def _headers(auth: AuthContext, request_id: str) -> dict[str, str]:
    """Return the headers; a request id that a caller chose is made unique to its tenant."""
    if not _OWN_REQUEST_ID.match(request_id):
        request_id = derived_id("req", auth.tenant_id, request_id)
    return {"Content-Type": "application/json", "Idempotency-Key": request_id}


async def _read(incoming: Incoming, parts: AnswerParts) -> None:
    media_type = incoming.media_type()
    if media_type == "application/json":
        parts.take(await incoming.whole(), add_completion)
    elif media_type == "text/event-stream":
        await _read_stream(incoming, parts)
    else:
        raise other_format(media_type)


async def _read_stream(incoming: Incoming, parts: AnswerParts) -> None:
    async with aclosing(incoming.events()) as events:
        async for data in events:
            if data.strip() == _DONE:
                break
            parts.take(data, add_completion)
        else:
            raise ProviderError("the backend's answer ended before it was complete")
    await incoming.reach_end()


def _parse_embeddings(answer: Mapping[str, Any]) -> Parsed:
    usage = answer.get("usage") or {}
    tokens = usage.get("prompt_tokens")
    return vectors_of(answer), counted(tokens)
