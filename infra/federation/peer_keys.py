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
FETCH_S: Final = 3.0
PATH: Final = "/v1/federation/jwks.json"


class PeerKeys:
    """The keys of one peer. Kept keys hold while it is down; a withdrawn one ends in `TTL_S`."""

    def __init__(self, client: HttpPeers, peer: PeerEntry) -> None:
        self._client = client
        self._peer = peer
        self._url = peer.jwks_url or peer.federation_url + PATH
        self._keys: dict[str | None, PublicKey] = {}
        self._fetched = float("-inf")
        self._lock = asyncio.Lock()

    async def find(self, kid: str | None) -> PublicKey | None:
        """Return the key of that id, `None` if the peer has no such key.

        Raises `DependencyUnavailableError` when it is not known and the peer cannot be asked.
        """
        age = time.monotonic() - self._fetched
        if kid in self._keys and age < TTL_S:
            return self._keys[kid]
        async with self._lock:
            age = time.monotonic() - self._fetched
            is_due = age >= TTL_S or (kid not in self._keys and age >= PACE_S)
            if is_due:
                await self._fetch(kid)
        return self._keys.get(kid)

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
            if kid not in self._keys:
                raise DependencyUnavailableError(
                    f"the keys of {self._peer.stack_id} cannot be had: {exc}",
                    dependency=self._peer.stack_id,
                ) from exc
