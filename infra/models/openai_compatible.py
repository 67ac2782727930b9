"""Any server that speaks OpenAI's chat completions over HTTP: `openai/<model>`."""

import asyncio
import random
import re
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Final

import aiohttp
from yarl import URL

from agentos.domain.auth import AuthContext
from agentos.domain.errors import (
    AgentOSError,
    DependencyUnavailableError,
    InvalidRequestError,
    ProviderError,
    TimedOutError,
)
from agentos.domain.ids import derived_id
from agentos.domain.ports import ModelAnswer, ModelRequest
from agentos.infra.models.openai_errors import error_of_status, retry_after_ms
from agentos.infra.models.openai_wire import AnswerParts, to_body
from agentos.infra.models.sse import MAX_EVENT_BYTES, read_sse

BACKEND: Final = "openai"
CONNECT_TIMEOUT_S: Final = 10.0
RETRIES: Final = 2
FIRST_WAIT_S: Final = 0.25
MAX_WAIT_S: Final = 8.0
MAX_CONNECTIONS: Final = 256
END_OF_BODY_S: Final = 0.05

_OWN_REQUEST_ID: Final = re.compile(r"req_[0-9A-HJKMNP-TV-Z]{26}\Z")
_DONE: Final = b"[DONE]"


class OpenAICompatibleModels:
    """Models of one server, over one pool of connections that `aclose()` closes.

    `models` names what may be asked for; empty: anything. The key is in no message, log or
    `repr`. Redirects are not followed and cookies not kept.
    """

    def __init__(
        self, base_url: str, api_key: str | None = None, models: Sequence[str] = ()
    ) -> None:
        """Keep the settings; `ValueError` for a URL that is none of http(s) or holds a password."""
        url = URL(base_url)
        if url.scheme not in ("http", "https") or not url.host or url.user or url.password:
            raise ValueError("the base URL of a model backend is http(s)://host[:port]/path")
        self._url = url / "chat/completions"
        self._key = api_key
        self._models = frozenset(models)
        self._limit_field = (
            "max_completion_tokens" if url.host == "api.openai.com" else "max_tokens"
        )
        self._session: aiohttp.ClientSession | None = None
        self._is_closed = False

    async def invoke(
        self,
        auth: AuthContext,
        request: ModelRequest,
        on_delta: Callable[[str], None] | None = None,
    ) -> ModelAnswer:
        """Stream one chat completion.

        429, 5xx and a connection that breaks before the answer begins are tried again twice,
        with jitter, and not before the server's `Retry-After`, as far as the request's timeout
        allows. Raises `InvalidRequestError` for a model that the server does not have,
        `ProviderError` for any other wrong answer, `DependencyUnavailableError` when the
        server cannot be reached, `TimedOutError`. Cancellation closes the connection.
        """
        model = request.model_ref.partition("/")[2]
        if not model or (self._models and model not in self._models):
            raise InvalidRequestError(
                "the backend has no such model",
                model_ref=request.model_ref,
                known=sorted(self._models),
            )
        try:
            async with asyncio.timeout(request.timeout_ms / 1000):
                return await self._invoke(auth, request, model, on_delta)
        except TimeoutError as exc:
            raise TimedOutError("the model backend took too long", backend=BACKEND) from exc

    async def aclose(self) -> None:
        """Close every connection; calls after it are `DependencyUnavailableError`."""
        self._is_closed = True
        if self._session is not None:
            await self._session.close()

    async def _invoke(
        self,
        auth: AuthContext,
        request: ModelRequest,
        model: str,
        on_delta: Callable[[str], None] | None,
    ) -> ModelAnswer:
        deadline = time.monotonic() + request.timeout_ms / 1000
        body = to_body(request, model, self._limit_field)
        headers = self._headers(auth, request)
        for attempt in range(RETRIES + 1):
            parts = AnswerParts(on_delta)
            try:
                async with self._post(body, headers) as response:
                    await _read_answer(response, parts)
                return _to_answer(parts, request, model)
            except _NotYetError as failure:
                wait = _wait_s(attempt, failure.retry_after_ms)
                if attempt == RETRIES or time.monotonic() + wait >= deadline:
                    raise failure.error from failure.__cause__
            await asyncio.sleep(wait)
        raise AssertionError("the last attempt returns or raises")

    @asynccontextmanager
    async def _post(
        self, body: bytes, headers: dict[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Open a response with status 200; its connection is closed unless read to the end."""
        try:
            response = await self._open_session().post(
                self._url, data=body, headers=headers, allow_redirects=False
            )
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as exc:
            if isinstance(exc, aiohttp.ClientConnectorError):
                raise _unreachable() from exc
            raise _NotYetError(_unreachable(), None) from exc
        except aiohttp.ConnectionTimeoutError as exc:
            raise _unreachable() from exc
        except (aiohttp.ClientError, ValueError):
            # Not chained: aiohttp's error holds the request's headers, and they the key.
            raise ProviderError("the model backend did not answer in HTTP") from None
        try:
            if response.status != 200:
                error = await error_of_status(response, self._key)
                if response.status == 429 or response.status >= 500:
                    raise _NotYetError(error, retry_after_ms(response.headers))
                raise error
            yield response
        finally:
            response.close()

    def _open_session(self) -> aiohttp.ClientSession:
        if self._is_closed:
            raise DependencyUnavailableError("the model backend is closed", dependency=BACKEND)
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=MAX_CONNECTIONS),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S),
            )
        return self._session

    def _headers(self, auth: AuthContext, request: ModelRequest) -> dict[str, str]:
        """Return the headers; a request id that a caller chose is made unique to its tenant."""
        request_id = request.request_id
        if not _OWN_REQUEST_ID.match(request_id):
            request_id = derived_id("req", auth.tenant_id, request_id)
        headers = {
            "Content-Type": "application/json",
            "Accept": "text/event-stream, application/json",
            "Accept-Encoding": "identity",
            "Idempotency-Key": request_id,
        }
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        return headers


class _NotYetError(Exception):
    """A failure that another attempt may mend; `error` is what the caller sees if none does."""

    def __init__(self, error: AgentOSError, after_ms: int | None) -> None:
        super().__init__(error.message)
        self.error = error
        self.retry_after_ms = after_ms
        if after_ms is not None:
            error.details["retry_after_ms"] = after_ms


def _unreachable() -> AgentOSError:
    return DependencyUnavailableError("the model backend cannot be reached", dependency=BACKEND)


def _wait_s(attempt: int, after_ms: int | None) -> float:
    """Return how long to wait: between half and all of a growing time, or as the server says."""
    most = min(MAX_WAIT_S, FIRST_WAIT_S * 2.0**attempt)
    jittered = random.uniform(most / 2, most)  # noqa: S311 - spreads load, guards nothing
    return jittered if after_ms is None else after_ms / 1000 + jittered


async def _read_answer(response: aiohttp.ClientResponse, parts: AnswerParts) -> None:
    """Read the stream, or the whole completion of a server that does not stream."""
    try:
        if response.content_type == "application/json":
            parts.add_json(await _read_whole(response))
        elif response.content_type == "text/event-stream":
            await _read_stream(response, parts)
        else:
            raise ProviderError(
                "the backend answered in another format",
                status=response.status,
                content_type=response.content_type[:100],
            )
    except aiohttp.ClientError as exc:
        if not parts.finished:
            raise ProviderError("the backend's answer broke off") from exc
    if not parts.finished:
        raise ProviderError("the backend's answer ended before it was complete")


async def _read_stream(response: aiohttp.ClientResponse, parts: AnswerParts) -> None:
    async with aclosing(read_sse(response.content.iter_any())) as events:
        async for data in events:
            if data.strip() == _DONE:
                parts.finished = True
                break
            parts.add_json(data)
    await _reach_end(response)


async def _reach_end(response: aiohttp.ClientResponse) -> None:
    """Read the empty rest, so that the connection can be used again; never wait long for it."""
    try:
        async with asyncio.timeout(END_OF_BODY_S):
            while not response.content.at_eof() and not await response.content.readany():
                pass
    except TimeoutError:
        return


async def _read_whole(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > MAX_EVENT_BYTES:
            raise ProviderError("the backend's answer is too long", retryable=False)
    return bytes(body)


def _to_answer(parts: AnswerParts, request: ModelRequest, model: str) -> ModelAnswer:
    calls = parts.tool_calls(request)
    return ModelAnswer(
        content=parts.content(),
        tool_calls=calls,
        usage=parts.usage(request, calls),
        backend=BACKEND,
        model=parts.model or model,
    )
