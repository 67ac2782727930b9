"""Amazon Bedrock: any of its models that can converse, and embeddings."""

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final
from urllib.parse import quote

from yarl import URL

from agentos.domain.auth import AuthContext
from agentos.domain.errors import AgentOSError, ProviderError, TimedOutError
from agentos.domain.ports import EmbedAnswer, EmbedRequest, ModelAnswer, ModelRequest, OnDelta
from agentos.infra.models.answer_parts import AnswerParts
from agentos.infra.models.bedrock_embeddings import embed
from agentos.infra.models.bedrock_wire import add_answer, add_event, to_converse
from agentos.infra.models.bodies import encode
from agentos.infra.models.event_stream import MEDIA_TYPE, Frame, FrameReader
from agentos.infra.models.incoming import Incoming
from agentos.infra.models.reading import other_format, read_embeddings, read_whole
from agentos.infra.models.sigv4 import Credentials, Scope, signed_headers
from agentos.infra.models.tool_names import ToolNames
from agentos.infra.models.upstream import JSON_BODY, Upstream

SERVICE: Final = "bedrock"


class BedrockBackend:
    """`ModelBackend` over Converse, ConverseStream and InvokeModel.

    With `credentials` each request is signed; without, `upstream` carries an API key.
    """

    def __init__(self, upstream: Upstream, region: str, credentials: Credentials | None) -> None:
        self._upstream = upstream
        self._root = str(upstream.url).rstrip("/")
        self._scope = Scope(region, SERVICE)
        self._credentials = credentials

    async def chat(
        self, auth: AuthContext, model: str, request: ModelRequest, on_delta: OnDelta | None = None
    ) -> ModelAnswer:
        """Make one call, streamed if somebody listens; as `ModelBackend.chat`."""
        names = ToolNames(request)
        body = encode(to_converse(request, names))
        parts = AnswerParts(request, names, on_delta)

        async def read(incoming: Incoming) -> None:
            if on_delta is None:
                await read_whole(incoming, parts, add_answer)
            else:
                await _read_stream(incoming, parts)

        url = self._url(model, "converse" if on_delta is None else "converse-stream")
        try:
            await self._upstream.call(
                url, body, read, timeout_ms=request.timeout_ms, headers=self._headers(url, body)
            )
            return parts.answer(self._upstream.name, model)
        except AgentOSError as error:
            raise parts.marked(error)  # noqa: B904 - the same error

    async def embed(self, auth: AuthContext, model: str, request: EmbedRequest) -> EmbedAnswer:
        """Embed with a Titan or Cohere model; as `ModelBackend.embed`.

        The calls that it takes share the request's time: none has more than what is left.
        """
        url = self._url(model, "invoke")
        ends_at = time.monotonic() + request.timeout_ms / 1000

        async def invoke(body: bytes) -> bytes:
            left_ms = int((ends_at - time.monotonic()) * 1000)
            if left_ms <= 0:
                raise TimedOutError("the model backend took too long", backend=self._upstream.name)
            return await self._upstream.call(
                url,
                body,
                read_embeddings,
                timeout_ms=left_ms,
                headers=self._headers(url, body),
            )

        return await embed(invoke, request, self._upstream.name, model)

    async def probe(self) -> None:
        """See that the server answers, if only that there is no such page."""
        await self._upstream.probe(URL(f"{self._root}/", encoded=True))

    async def aclose(self) -> None:
        """Close every connection."""
        await self._upstream.aclose()

    def _url(self, model: str, operation: str) -> URL:
        """Return the model's URL; its name is one segment of the path, whatever is in it."""
        return URL(f"{self._root}/model/{quote(model, safe='')}/{operation}", encoded=True)

    def _headers(self, url: URL, body: bytes) -> Mapping[str, str]:
        if self._credentials is None:
            return JSON_BODY
        return signed_headers(
            "POST",
            url,
            JSON_BODY,
            body,
            scope=self._scope,
            credentials=self._credentials,
            now=datetime.now(UTC),
        )


async def _read_stream(incoming: Incoming, parts: AnswerParts) -> None:
    if (media_type := incoming.media_type()) != MEDIA_TYPE:
        raise other_format(media_type)
    reader = FrameReader()
    incoming.moved()
    while chunk := await incoming.chunk():
        for frame in reader.feed(chunk):
            incoming.moved()
            _take(frame, parts)
    if not reader.is_between:
        raise ProviderError("the backend's answer ended inside a frame")


def _take(frame: Frame, parts: AnswerParts) -> None:
    """Add an event; `ProviderError` for an exception or error that comes in its place."""
    if frame.headers.get(":message-type") != "event":
        kind = frame.headers.get(":exception-type") or frame.headers.get(":error-code") or ""
        raise ProviderError("the backend broke off with an error", kind=kind[:100])
    kind = frame.headers.get(":event-type", "")
    parts.take(frame.payload, lambda event, into: add_event(kind, event, into))


def credentials_of(key: str) -> Credentials | None:
    """Return the access key in `<id>:<secret>[:<session token>]`, `None` for an API key."""
    access_key_id, colon, rest = key.partition(":")
    if not colon or not access_key_id.isascii() or not access_key_id.isalnum():
        return None
    secret, _, token = rest.partition(":")
    return Credentials(access_key_id, secret, token or None)
