"""Servers that speak Anthropic's Messages API."""

from agentos.domain.auth import AuthContext
from agentos.domain.errors import AgentOSError, InvalidRequestError
from agentos.domain.ports import EmbedAnswer, EmbedRequest, ModelAnswer, ModelRequest, OnDelta
from agentos.infra.models.answer_parts import AnswerParts
from agentos.infra.models.anthropic_wire import add_event, add_message, to_messages
from agentos.infra.models.bodies import encode
from agentos.infra.models.incoming import Incoming
from agentos.infra.models.reading import read_events, read_whole
from agentos.infra.models.tool_names import ToolNames
from agentos.infra.models.upstream import JSON_BODY, Upstream


class AnthropicBackend:
    """`ModelBackend` over the Messages API. It has no embeddings."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        root = upstream.url if upstream.url.name == "v1" else upstream.url / "v1"
        self._url = root / "messages"
        self._models_url = root / "models"

    async def chat(
        self, auth: AuthContext, model: str, request: ModelRequest, on_delta: OnDelta | None = None
    ) -> ModelAnswer:
        """Make one call, streamed if somebody listens; as `ModelBackend.chat`."""
        names = ToolNames(request)
        body = to_messages(request, model, names, is_streamed=on_delta is not None)
        parts = AnswerParts(request, names, on_delta)

        async def read(incoming: Incoming) -> None:
            if on_delta is None:
                await read_whole(incoming, parts, add_message)
            else:
                await read_events(incoming, parts, add_event, is_last=_is_last)

        try:
            await self._upstream.call(
                self._url, encode(body), read, timeout_ms=request.timeout_ms, headers=JSON_BODY
            )
            return parts.answer(self._upstream.name, model)
        except AgentOSError as error:
            raise parts.marked(error)  # noqa: B904 - the same error

    async def embed(self, auth: AuthContext, model: str, request: EmbedRequest) -> EmbedAnswer:
        """Raise `InvalidRequestError`: the API has no embeddings."""
        raise InvalidRequestError(
            "the backend has no embeddings", backend=self._upstream.name, stage="answer"
        )

    async def probe(self) -> None:
        """Ask for the list of models; as `ModelBackend.probe`."""
        await self._upstream.probe(self._models_url)

    async def aclose(self) -> None:
        """Close every connection."""
        await self._upstream.aclose()


def _is_last(parts: AnswerParts) -> bool:
    return parts.finish_reason is not None
