"""A peer's published keys: fetched over its own door, kept, fetched again for a new key."""

import asyncio
import time
from typing import Final

from agentos.domain.errors import AgentOSError, DependencyUnavailableError
from agentos.domain.federation.peer import PeerEntry, PeerUnreachableError
from agentos.infra.federation.client import HttpPeers
from agentos.infra.oidc import PublicKey, read_keys

TTL_S: Final = 60.0
PACE_S: Final = 1.0
RETRY_S: Final = 10.0
FETCH_S: Final = 3.0
PATH: Final = "/v1/federation/jwks.json"


class PeerKeys:
    """The keys of one peer. Kept keys hold while it is down; a withdrawn one ends in `TTL_S`."""

    def __init__(self, client: HttpPeers, peer: PeerEntry) -> None:
        self._client = client
        self._peer = peer
        self._url = peer.jwks_url or peer.federation_url + PATH
        self._keys: dict[str | None, PublicKey] = {}
        self._fetched = self._failed = float("-inf")
        self._lock = asyncio.Lock()

    async def find(self, kid: str | None) -> PublicKey | None:
        """Return the key of that id, `None` if the peer has no such key.

        Raises `DependencyUnavailableError` when it is not known and the peer cannot be asked.
        """
        now = time.monotonic()
        if kid in self._keys and (now - self._fetched < TTL_S or now - self._failed < RETRY_S):
            return self._keys[kid]
        async with self._lock:
            if kid not in self._keys or time.monotonic() - self._fetched >= TTL_S:
                await self._ask(kid)
        return self._keys.get(kid)

    async def _ask(self, kid: str | None) -> None:
        """Fetch, unless that was done, or failed, a moment ago."""
        if time.monotonic() - max(self._fetched, self._failed) >= PACE_S:
            await self._fetch(kid)
        elif kid not in self._keys and self._failed > self._fetched:
            raise self._unknown("it was asked a moment ago")

    def _unknown(self, why: str) -> DependencyUnavailableError:
        return DependencyUnavailableError(
            f"the keys of {self._peer.stack_id} cannot be had: {why}",
            dependency=self._peer.stack_id,
        )

    async def _fetch(self, kid: str | None) -> None:
        try:
            status, body, _ = await self._client.call(
                self._peer, "GET", self._url, {}, timeout=FETCH_S
            )
            if status != 200:
                raise PeerUnreachableError(f"it answers {status}")
            self._keys = read_keys(body)
            self._fetched = time.monotonic()
        except (PeerUnreachableError, AgentOSError) as exc:
            self._failed = time.monotonic()
            if kid not in self._keys:
                raise self._unknown(str(exc)) from exc
