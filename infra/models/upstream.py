"""One model server over HTTP: its connections, its time limits, and how its failures read."""

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, TypeVar

from yarl import URL

from agentos.domain.errors import (
    AgentOSError,
    DependencyUnavailableError,
    ProviderError,
    TimedOutError,
)
from agentos.domain.models.catalog import Timeouts
from agentos.infra.models.http1 import BrokenOffError, Exchange, Kept, NotHttpError, header_lines
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
        self._kept: Kept | None = None
        self._is_closed = False
        if not all(_PRINTABLE.match(secret) for secret in secrets):
            raise ValueError("a key is one line of printable characters without blanks")
        header_lines(self._headers)

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
        kept = self._kept or self._open_kept()
        end = self._end(kept, timeout_ms)

        async def take(exchange: Exchange) -> T:
            if exchange.status != 200:
                raise await self._refusal(exchange)
            return await read(Incoming(exchange, end, self._idle_s))

        return await self._exchange(kept, kept.request("POST", url, headers or {}, body), end, take)

    async def probe(self, url: URL) -> None:
        """Return if the server answers a GET with anything below 500."""

        async def take(exchange: Exchange) -> int:
            return exchange.status

        try:
            kept = self._kept or self._open_kept()
            end = self._end(kept, MAX_PROBE_S * 1000)
            status = await self._exchange(kept, kept.request("GET", url, {}, b""), end, take)
        except AgentOSError:
            raise self._unreachable("connect") from None
        if status >= 500:
            raise self._unreachable("answer")

    async def aclose(self) -> None:
        """Close every connection; calls after it are `DependencyUnavailableError`."""
        self._is_closed = True
        if self._kept is not None:
            self._kept.close()
            self._kept = None

    async def _exchange(
        self,
        kept: Kept,
        request: bytes,
        end: float,
        take: Callable[[Exchange], Awaitable[T]],
    ) -> T:
        """Send a request, and let `take` have the answer once its head is here."""
        exchange = None
        try:
            exchange = await kept.begin(end)
            await exchange.ask(request, end)
            return await take(exchange)
        except BrokenOffError as error:
            if exchange is not None and exchange.has_head:
                raise ProviderError(
                    "the model backend's answer broke off", backend=self.name
                ) from None
            raise self._unreachable("answer" if error.is_sent else "connect") from None
        except NotHttpError:
            raise ProviderError(
                "the model backend did not answer in HTTP", stage="answer", backend=self.name
            ) from None
        except TimeoutError:
            stage = {"stage": "connect"} if exchange is None else {}
            raise TimedOutError(
                "the model backend took too long", backend=self.name, **stage
            ) from None
        finally:
            if exchange is not None:
                kept.end(exchange)

    async def _refusal(self, exchange: Exchange) -> AgentOSError:
        body = b""
        try:
            while len(body) < MAX_ERROR_BYTES and (piece := await exchange.more()):
                body += piece
        except BrokenOffError:
            pass  # the status says enough
        body = body[:MAX_ERROR_BYTES]
        return refusal(self.name, exchange.status, exchange.headers, body, self._secrets)

    def _end(self, kept: Kept, timeout_ms: float) -> float:
        """Return the loop's time at which a call of so many milliseconds is late."""
        least_ms = min(timeout_ms, self._timeouts.total_ms)
        return kept.loop.time() + least_ms / 1000

    def _unreachable(self, stage: str) -> AgentOSError:
        return DependencyUnavailableError(
            "the model backend cannot be reached", dependency=self.name, stage=stage
        )

    def _open_kept(self) -> Kept:
        if self._is_closed:
            raise DependencyUnavailableError(
                "the model backend is closed", dependency=self.name, stage="connect"
            )
        connect_s = self._timeouts.connect_ms / 1000
        self._kept = Kept(self.url, self._headers, limit=self._limit, connect_s=connect_s)
        return self._kept


def checked_url(base_url: str) -> URL:
    """Return the URL; `ValueError` if it is none of http(s), holds a password or a query."""
    url = URL(base_url)
    is_plain = not (url.user or url.password or url.query_string or url.fragment)
    if url.scheme not in ("http", "https") or not url.host or not is_plain:
        raise ValueError("the base URL of a model backend is http(s)://host[:port]/path")
    return url
