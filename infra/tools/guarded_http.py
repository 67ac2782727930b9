"""HTTP connections to addresses that were checked, and to no others.

A name is resolved once; all of its addresses are checked; the connection goes to one of these
very addresses, whatever the name means a moment later; and the socket's own address is checked
again when it is made. So a name that changes its mind (DNS rebinding) gains nothing.
"""

import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from agentos.domain.errors import ForbiddenError, ToolFailedError
from agentos.infra.tools.allowlist import is_address_allowed

CONNECT_TIMEOUT_S: Final = 10.0


class GuardedHttp:
    """Makes one request over a connection of its own, without cookies, proxies or redirects."""

    def __init__(
        self,
        *,
        allow_private: bool,
        resolver: Callable[[], AbstractResolver] = aiohttp.ThreadedResolver,
    ) -> None:
        self._allow_private = allow_private
        self._resolver = resolver

    @asynccontextmanager
    async def request(
        self, method: str, url: URL, headers: Mapping[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Open the response; its connection is closed on leaving.

        Raises `ForbiddenError` for an address that is not allowed, `ToolFailedError` when the
        server cannot be found or reached or does not speak HTTP.
        """
        found = await self._resolve(url)
        connector = aiohttp.TCPConnector(
            resolver=_Resolved(found), socket_factory=self._make_socket, force_close=True
        )
        try:
            async with (
                aiohttp.ClientSession(
                    connector=connector,
                    cookie_jar=aiohttp.DummyCookieJar(),
                    timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S),
                    auto_decompress=False,
                    trust_env=False,
                ) as session,
                session.request(method, url, headers=headers, allow_redirects=False) as response,
            ):
                yield response
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as exc:
            raise ToolFailedError("the server cannot be reached", reason="unreachable") from exc
        except (aiohttp.ClientError, ValueError) as exc:
            raise ToolFailedError("the server did not answer in HTTP", reason="http") from exc

    async def _resolve(self, url: URL) -> list[ResolveResult]:
        host, port = url.raw_host or "", url.port or 0
        resolver = self._resolver()
        try:
            found = await resolver.resolve(host, port, socket.AF_UNSPEC)
        except (OSError, UnicodeError) as exc:
            raise ToolFailedError("the host's name is not known", reason="dns") from exc
        finally:
            await resolver.close()
        if not found:
            raise ToolFailedError("the host's name is not known", reason="dns")
        for each in found:
            if not is_address_allowed(each["host"], allow_private=self._allow_private):
                raise ForbiddenError("the host's address may not be fetched", reason="address")
        return found

    def _make_socket(self, info: Any) -> socket.socket:
        """Make the socket for one address: the last guard, whatever chose the address."""
        family, kind, protocol, _, address = info
        if not is_address_allowed(str(address[0]), allow_private=self._allow_private):
            raise PermissionError("the address may not be connected to")
        made = socket.socket(family, kind, protocol)
        made.setblocking(False)
        return made


class _Resolved(AbstractResolver):
    """Answers with what was found and checked before."""

    def __init__(self, found: list[ResolveResult]) -> None:
        self._found = found

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the checked addresses."""
        return self._found

    async def close(self) -> None:
        """Hold nothing."""
