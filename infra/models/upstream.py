"""One model server over HTTP: its connections, its time limits, and how its failures read."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, TypeVar

import aiohttp
from yarl import URL

from agentos.domain.errors import (
    AgentOSError,
    DependencyUnavailableError,
    ProviderError,
    TimedOutError,
)
from agentos.domain.models.catalog import Timeouts
from agentos.infra.models.incoming import Incoming
from agentos.infra.models.refusals import MAX_ERROR_BYTES, refusal

T = TypeVar("T")

JSON_BODY: Final = {"Content-Type": "application/json"}
MAX_CONNECTIONS: Final = 1000
MAX_PROBE_S: Final = 10.0

_PRINTABLE: Final = re.compile(r"[\x21-\x7e]+\Z")


class Upstream:
    """Asks one server: one attempt a call, over connections that are kept.

    `headers` go with every request; `secrets` are what no error may show, should the server
    say it. Redirects are not followed and cookies not kept. `ValueError` for a base URL that
    is none of http(s) or holds a password, and for a secret that fits no header.
    """

    def __init__(
        self,
        name: str,
        base_url: str,
        *,
        headers: Mapping[str, str],
        secrets: tuple[str, ...] = (),
        timeouts: Timeouts | None = None,
        max_concurrency: int | None = None,
    ) -> None:
        self.name = name
        self.url = checked_url(base_url)
        self._headers = {"Accept-Encoding": "identity", **headers}
        self._secrets = secrets
        self._timeouts = timeouts or Timeouts()
        self._idle_s = self._timeouts.idle_ms / 1000
        self._limit = max_concurrency or MAX_CONNECTIONS
        self._session: aiohttp.ClientSession | None = None
        self._is_closed = False
        if not all(_PRINTABLE.match(secret) for secret in secrets):
            raise ValueError("a key is one line of printable characters without blanks")

    async def call(
        self,
        url: URL,
        body: bytes,
        read: Callable[[Incoming], Awaitable[T]],
        *,
        timeout_ms: int,
        headers: Mapping[str, str] | None = None,
    ) -> T:
        """Post `body` and let `read` take the answer with status 200.

        The connection is closed unless the answer was read to its end. Raises
        `DependencyUnavailableError` (stage `connect`: not sent; `answer`: sent, and the
        connection broke before an answer), `TimedOutError`, what `refusal` makes of another
        status, and `ProviderError` for an answer that breaks off.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + min(timeout_ms, self._timeouts.total_ms) / 1000
        try:
            async with asyncio.timeout_at(end) as limit:
                response = await self._open(url, body, headers)
                try:
                    if response.status != 200:
                        raise await self._refusal(response)
                    return await read(Incoming(response, limit, end, self._idle_s))
                except (aiohttp.ClientError, ConnectionError):
                    # Not chained: aiohttp's errors hold the request's headers, and they the key.
                    raise ProviderError(
                        "the model backend's answer broke off", backend=self.name
                    ) from None
                finally:
                    response.close()
        except TimeoutError:
            raise TimedOutError("the model backend took too long", backend=self.name) from None

    async def probe(self, url: URL) -> None:
        """Return if the server answers a GET with anything below 500."""
        wait_s = min(MAX_PROBE_S, self._timeouts.total_ms / 1000)
        try:
            async with asyncio.timeout(wait_s):
                response = await self._open_session().get(url, allow_redirects=False)
                response.close()
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
            raise self._unreachable("connect") from None
        if response.status >= 500:
            raise self._unreachable("answer")

    async def aclose(self) -> None:
        """Close every connection; calls after it are `DependencyUnavailableError`."""
        self._is_closed = True
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _open(
        self, url: URL, body: bytes, headers: Mapping[str, str] | None
    ) -> aiohttp.ClientResponse:
        session = self._session or self._open_session()
        try:
            return await session.post(url, data=body, headers=headers, allow_redirects=False)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
            raise self._unreachable("connect") from None
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, ConnectionError):
            raise self._unreachable("answer") from None
        except (aiohttp.ClientError, ValueError):
            raise ProviderError(
                "the model backend did not answer in HTTP", stage="answer", backend=self.name
            ) from None

    async def _refusal(self, response: aiohttp.ClientResponse) -> AgentOSError:
        try:
            body = await response.content.read(MAX_ERROR_BYTES)
        except (aiohttp.ClientError, ConnectionError):
            body = b""
        return refusal(self.name, response.status, response.headers, body, self._secrets)

    def _unreachable(self, stage: str) -> AgentOSError:
        return DependencyUnavailableError(
            "the model backend cannot be reached", dependency=self.name, stage=stage
        )

    def _open_session(self) -> aiohttp.ClientSession:
        if self._is_closed:
            raise DependencyUnavailableError(
                "the model backend is closed", dependency=self.name, stage="connect"
            )
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._limit),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers=self._headers,
                timeout=aiohttp.ClientTimeout(
                    total=None, sock_connect=self._timeouts.connect_ms / 1000
                ),
            )
        return self._session


def checked_url(base_url: str) -> URL:
    """Return the URL; `ValueError` if it is none of http(s), holds a password or a query."""
    url = URL(base_url)
    is_plain = not (url.user or url.password or url.query_string or url.fragment)
    if url.scheme not in ("http", "https") or not url.host or not is_plain:
        raise ValueError("the base URL of a model backend is http(s)://host[:port]/path")
    return url
