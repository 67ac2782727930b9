"""Google's Gemini models."""

from typing import Final
from urllib.parse import quote

from yarl import URL

from agentos.domain.auth import AuthContext
from agentos.domain.errors import AgentOSError
from agentos.domain.ports import EmbedAnswer, EmbedRequest, ModelAnswer, ModelRequest, OnDelta
from agentos.infra.models.answer_parts import AnswerParts
from agentos.infra.models.bodies import encode
from agentos.infra.models.embeddings import embed_answer
from agentos.infra.models.google_wire import add_content, to_content, to_embeddings, vectors_of
from agentos.infra.models.incoming import Incoming
from agentos.infra.models.reading import read_embeddings, read_events, read_whole
from agentos.infra.models.tool_names import ToolNames
from agentos.infra.models.upstream import JSON_BODY, Upstream

GENERATE: Final = "generateContent"
STREAM: Final = "streamGenerateContent?alt=sse"
EMBED: Final = "batchEmbedContents"


class GoogleBackend:
    """`ModelBackend` over generateContent and batchEmbedContents."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._root = str(upstream.url).rstrip("/")

    async def chat(
        self, auth: AuthContext, model: str, request: ModelRequest, on_delta: OnDelta | None = None
    ) -> ModelAnswer:
        """Make one call, streamed if somebody listens; as `ModelBackend.chat`."""
        names = ToolNames(request)
        body = to_content(request, model, names)
        parts = AnswerParts(request, names, on_delta)

        async def read(incoming: Incoming) -> None:
            if on_delta is None:
                await read_whole(incoming, parts, add_content)
            else:
                # The last event is not marked: the stream ends.
                await read_events(incoming, parts, add_content, is_last=lambda _: False)

        try:
            await self._upstream.call(
                self._url(model, GENERATE if on_delta is None else STREAM),
                encode(body),
                read,
                timeout_ms=request.timeout_ms,
                headers=JSON_BODY,
            )
            return parts.answer(self._upstream.name, model)
        except AgentOSError as error:
            raise parts.marked(error)  # noqa: B904 - the same error

    async def embed(self, auth: AuthContext, model: str, request: EmbedRequest) -> EmbedAnswer:
        """Embed all texts in one call; as `ModelBackend.embed`."""
        body = await self._upstream.call(
            self._url(model, EMBED),
            encode(to_embeddings(request, model)),
            read_embeddings,
            timeout_ms=request.timeout_ms,
            headers=JSON_BODY,
        )
        return embed_answer(body, vectors_of, request, self._upstream.name, model)

    async def probe(self) -> None:
        """Ask for the list of models; as `ModelBackend.probe`."""
        await self._upstream.probe(URL(f"{self._root}/models?pageSize=1", encoded=True))

    async def aclose(self) -> None:
        """Close every connection."""
        await self._upstream.aclose()

    def _url(self, model: str, method: str) -> URL:
        """Return the model's URL; its name is one segment of the path, whatever is in it."""
        return URL(f"{self._root}/models/{quote(model, safe='')}:{method}", encoded=True)
