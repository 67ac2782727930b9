"""API keys: verified from memory, refused only after the log was read to its end."""

import asyncio
import logging
import math
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from agentos.domain.auth import AuthContext, PolicyContext, expand_scopes
from agentos.domain.errors import AgentOSError
from agentos.domain.key.key import split_secret
from agentos.domain.subjects import StreamRef
from agentos.gateways.http.credentials import UnverifiedError, Verified, role_scopes
from agentos.gateways.http.tenants import Accounts, KnownKey

log = logging.getLogger(__name__)

PREFIX: Final = "aos_"
WRITE_EVERY_S: Final = 60.0


class KeyUsage(Protocol):
    """When keys were last used, shared by all processes; not part of the log."""

    async def note(self, key: StreamRef, at_ms: int) -> None:
        """Keep that a key was used then, unless a later time is kept already."""
        ...

    async def last_used(self, keys: Sequence[StreamRef]) -> dict[StreamRef, int]:
        """Return when (epoch ms) those keys were last used that ever were."""
        ...


class ApiKeys:
    """Turns an API key into the caller it stands for."""

    def __init__(
        self, accounts: Accounts, policy_context: PolicyContext, now: Callable[[], float]
    ) -> None:
        self._accounts = accounts
        self._policy_context = policy_context
        self._now = now

    async def verify(self, secret: str) -> Verified:
        """Return whom the secret identifies now, and until when.

        Raises `UnverifiedError`, and `DependencyUnavailableError` when the log cannot be asked
        whether a key that is not known was just issued, rotated or revoked.
        """
        parts = split_secret(secret)
        if parts is None:
            raise UnverifiedError("no such API key", "malformed_key")
        key_id, secret_hash = parts
        if not self._accepts(key_id, secret_hash):
            await self._accounts.read_on()
            if not self._accepts(key_id, secret_hash):
                raise self._refusal(key_id, secret_hash)
        known = self._accounts.keys[key_id]
        return Verified(self._auth(known), _until(known, secret_hash), key_id)

    def _accepts(self, key_id: str, secret_hash: str) -> bool:
        known = self._accounts.keys.get(key_id)
        if known is None or known.key.grant.kind != "api":
            return False
        return known.key.accepts(secret_hash, int(self._now() * 1000))

    def _refusal(self, key_id: str, secret_hash: str) -> UnverifiedError:
        """Return why; the caller is told no more than that the key does not verify."""
        known, text = self._accounts.keys.get(key_id), "no such API key"
        if known is None:
            return UnverifiedError(text, "unknown_key")
        if secret_hash not in known.key.hashes:
            return UnverifiedError(text, "wrong_secret")
        auth = self._auth(known)
        if known.key.grant.kind != "api":
            return UnverifiedError(text, "wrong_kind_of_key", auth)
        if known.key.status != "active":
            return UnverifiedError(text, "revoked_key", auth)
        return UnverifiedError(text, "expired_key", auth)

    def _auth(self, known: KnownKey) -> AuthContext:
        """Return the key's caller: one object for as long as the key is known."""
        if known.auth is None:
            grant = known.key.grant
            auth = AuthContext(
                tenant_id=known.key.ref.tenant_id,
                principal=grant.principal,
                scopes=expand_scopes(frozenset(grant.scopes)) & role_scopes(grant.roles),
                roles=grant.roles,
                policy_context=self._policy_context,
            )
            self._accounts.identifies(known, auth)
            return auth
        return known.auth


def _until(known: KnownKey, secret_hash: str) -> float:
    """Return the second at which the secret ends to hold by itself."""
    key = known.key
    ends = [math.inf if key.grant.expires_at is None else key.grant.expires_at / 1000]
    if secret_hash != key.hashes[0]:
        ends.append(key.old_until / 1000)
    return min(ends)


class KeyUses:
    """The keys that were used here, noted in memory and written at most once a minute each."""

    def __init__(
        self, accounts: Accounts, usage: KeyUsage, *, every_s: float = WRITE_EVERY_S
    ) -> None:
        self._accounts = accounts
        self._usage = usage
        self._every_s = every_s

    async def run(self) -> None:
        """Write the times once a minute until cancelled, and at the end what is left."""
        try:
            while True:
                await asyncio.sleep(self._every_s)
                await self.write()
        finally:
            await self.write()

    async def write(self) -> None:
        """Write the times that are not written yet; those that fail stay for the next time."""
        used = self._accounts.used
        for key_id in tuple(used):
            at = used.pop(key_id)
            known = self._accounts.keys[key_id]
            try:
                await self._usage.note(known.key.ref, int(at * 1000))
            except AgentOSError as error:
                log.warning("when keys were used is not written yet: %s", error)
                used.setdefault(key_id, at)
                return
