"""Calls to peers over HTTP: bounded, and never following a peer elsewhere."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import aiohttp
import orjson

from agentos.domain.federation.peer import PeerEntry, PeerTls, PeerUnreachableError
from agentos.infra.federation.tls import peer_context
from agentos.infra.settings import Settings

MAX_ANSWER: Final = 4 * 1024 * 1024
CONNECT_S: Final = 5.0
SILENCE_S: Final = 30.0
BROKEN: Final = (aiohttp.ClientError, TimeoutError, OSError, ValueError)


class HttpPeers:
    """One pool of connections for all peers; `close` it at the end."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._http: aiohttp.ClientSession | None = None

    async def call(
        self,
        peer: PeerEntry,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: Mapping[str, Any] | None = None,
        *,
        timeout: float = 15.0,
    ) -> tuple[int, dict[str, Any], Mapping[str, str]]:
        """Return status, JSON object and headers of a peer's answer.

        Raises `PeerUnreachableError` without a whole answer in `timeout` seconds.
        """
        sent = {**headers, "Content-Type": "application/json"}
        data = None if body is None else orjson.dumps(body)
        limit = aiohttp.ClientTimeout(total=timeout, sock_connect=CONNECT_S)
        try:
            async with self._session().request(
                method, url, data=data, headers=sent, timeout=limit, **self._tls(peer)
            ) as answer:
                return answer.status, await _read(answer), answer.headers
        except BROKEN as exc:
            raise PeerUnreachableError(f"{type(exc).__name__}: {exc}") from exc

    @asynccontextmanager
    async def stream(
        self, peer: PeerEntry, url: str, headers: Mapping[str, str]
    ) -> AsyncIterator[tuple[int, AsyncIterator[bytes], dict[str, Any]]]:
        """Open a stream: its status, its pieces, and the JSON body where it is no stream.

        A peer that says nothing for `SILENCE_S` is gone: it sends a sign of life far more
        often. Raises `PeerUnreachableError`, also out of the pieces.
        """
        limit = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=SILENCE_S)
        try:
            answer = await self._session().get(
                url, headers=headers, timeout=limit, **self._tls(peer)
            )
        except BROKEN as exc:
            raise PeerUnreachableError(f"{type(exc).__name__}: {exc}") from exc
        try:
            is_stream = answer.status == 200 and answer.content_type == "text/event-stream"
            body = {} if is_stream or answer.status == 204 else await _body(answer)
            yield answer.status, _pieces(answer), body
        finally:
            answer.close()

    async def close(self) -> None:
        """Let go of all connections."""
        if self._http is not None:
            await self._http.close()

    def _session(self) -> aiohttp.ClientSession:
        if self._http is None:
            connector = aiohttp.TCPConnector(limit=0, limit_per_host=0, keepalive_timeout=60)
            self._http = aiohttp.ClientSession(
                connector=connector, auto_decompress=False, read_bufsize=2**18, trust_env=False
            )
        return self._http

    def _tls(self, peer: PeerEntry) -> dict[str, Any]:
        """Return how the peer proves that it is the stack it should be: by its SAN."""
        common: dict[str, Any] = {"allow_redirects": False}
        if not peer.has_tls:
            return common
        authority = peer.tls.ca_cert if isinstance(peer.tls, PeerTls) else None
        context = peer_context(self._settings, authority)
        return common | {"ssl": context, "server_hostname": peer.stack_id}


async def _read(answer: aiohttp.ClientResponse) -> dict[str, Any]:
    """Return a bounded JSON object; `{}` for anything else."""
    body = bytearray()
    async for piece in answer.content.iter_chunked(64 * 1024):
        body += piece
        if len(body) > MAX_ANSWER:
            raise ValueError("the answer is too large")
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}


async def _body(answer: aiohttp.ClientResponse) -> dict[str, Any]:
    try:
        return await _read(answer)
    except BROKEN as exc:
        raise PeerUnreachableError(f"{type(exc).__name__}: {exc}") from exc


async def _pieces(answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    try:
        async for piece in answer.content.iter_any():
            yield piece
    except BROKEN as exc:
        raise PeerUnreachableError(f"{type(exc).__name__}: {exc}") from exc
