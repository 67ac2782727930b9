"""Subscriber keys: who may connect to the broker as a tenant, kept as the log says.

The log is the truth. What the broker has follows from it: at once after each command that
changes it, and at the start and every few seconds, so that a crash in between heals.
"""

import asyncio
import secrets
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Final, Protocol

import bcrypt
import structlog

from agentos.domain.aggregate import read_events
from agentos.domain.envelope import Event
from agentos.domain.errors import AgentOSError
from agentos.domain.key.key import Key, KeyRotated
from agentos.domain.log import Recorded
from agentos.domain.ports import Clock, EventLog
from agentos.domain.subjects import StreamRef
from agentos.domain.tenant.tenant import Tenant

KIND: Final = "subscriber"
EVERY_S: Final = 5.0
ROUNDS: Final = 4
log = structlog.get_logger()


class BrokerAccounts(Protocol):
    """The tenants' accounts on the broker."""

    @property
    def address(self) -> str:
        """Where a subscriber connects, `host:port`."""
        ...

    def lock(self) -> AbstractAsyncContextManager[None]:
        """Hold the accounts for this process alone."""
        ...

    async def apply(self, users: Mapping[str, Mapping[str, str]]) -> None:
        """Let exactly these tenants have accounts, with these users and bcrypt hashes.

        Returns once the broker took it; raises `DependencyUnavailableError`.
        """
        ...


class SubscriberKey(Key):
    """A key whose names count too: a user of the broker has one password, so each secret its own.

    A key's `prefix` is the user's name here, its `secret_hash` the password's bcrypt hash.
    """

    def __init__(self, ref: StreamRef) -> None:
        super().__init__(ref)
        self.old_prefix = ""

    def apply(self, event: Event) -> None:
        """Evolve by one event."""
        if isinstance(event.payload, KeyRotated):
            self.old_prefix = self.prefix
        super().apply(event)

    def users(self, now_ms: int) -> dict[str, str]:
        """Return the names that may connect now, with their hashes."""
        if self.status != "active" or self.has_expired(now_ms):
            return {}
        users = {self.prefix: self.hashes[0]}
        if now_ms < self.old_until:
            users[self.old_prefix] = self.hashes[1]
        return users

    def changes_at(self, now_ms: int) -> list[int]:
        """Return when `users` changes by itself (epoch ms)."""
        return [at for at in (self.grant.expires_at, self.old_until) if at and at > now_ms]


class AccountsKeeper:
    """Keeps the broker's accounts as the keys and tenants of the log want them."""

    def __init__(self, event_log: EventLog, clock: Clock, accounts: BrokerAccounts) -> None:
        self._log, self._clock, self._accounts = event_log, clock, accounts
        self._keys: dict[StreamRef, SubscriberKey] = {}
        self._tenants: dict[str, Tenant] = {}
        self._position = 0
        self._mutex = asyncio.Lock()

    def make_credential(self) -> tuple[str, str, str]:
        """Return a new user's name, the URL that is shown once, and the hash that is kept.

        The password has 256 bits of its own, so the least work of bcrypt is enough.
        """
        user, password = f"sub_{secrets.token_hex(8)}", secrets.token_urlsafe(32)
        hashed = bcrypt.hashpw(password.encode(), bcrypt.gensalt(ROUNDS, prefix=b"2a")).decode()
        return user, f"nats://{user}:{password}@{self._accounts.address}", hashed

    async def refresh(self) -> None:
        """Bring the broker to where the log is; raises `DependencyUnavailableError`."""
        async with self._mutex, self._accounts.lock():
            # Read under the lock: what is applied last is never older than what was before.
            await self._catch_up()
            await self._accounts.apply(self._wanted())

    async def keep(self) -> None:
        """Refresh at once, for every key and tenant that changes, when time changes one."""
        await self._refresh_calmly()
        tail = self._log.tail(after=self._position, kinds=("key", "tenant"), headers_only=True)
        async with aclosing(tail):  # type: ignore[type-var]  # an async generator
            pending = asyncio.ensure_future(anext(tail))
            try:
                while True:
                    done, _ = await asyncio.wait([pending], timeout=self._patience())
                    if done:
                        pending.result()
                        pending = asyncio.ensure_future(anext(tail))
                    await self._refresh_calmly()
            finally:
                pending.cancel()
                await asyncio.gather(pending, return_exceptions=True)

    async def _refresh_calmly(self) -> None:
        try:
            await self.refresh()
        except AgentOSError as exc:
            log.warning("the accounts of subscribers are behind", reason=str(exc))

    def _patience(self) -> float:
        now = self._clock.now_ms()
        due = [at for key in self._keys.values() for at in key.changes_at(now)]
        return min([EVERY_S, *((at - now + 1) / 1000 for at in due)])

    async def _catch_up(self) -> None:
        tail = self._log.tail(after=self._position, kinds=("key", "tenant"))
        async with aclosing(tail):  # type: ignore[type-var]  # an async generator
            async for batch in tail:
                for record in batch.records:
                    self._see(record)
                    self._position = max(self._position, record.position)
                if batch.caught_up:
                    return

    def _see(self, record: Recorded) -> None:
        ref = record.ref
        if ref.kind == Tenant.KIND:
            tenant = self._tenants.setdefault(ref.tenant_id, Tenant(ref))
            for event in read_events(record, Tenant.PAYLOADS):
                tenant.evolve(event)
            return
        key = self._keys.get(ref) or SubscriberKey(ref)
        events = read_events(record, Key.PAYLOADS)
        if ref not in self._keys and events and events[0].sequence != 1:
            return  # of a kind that does not concern the broker
        for event in events:
            key.evolve(event)
        if events and key.grant.kind == KIND:
            self._keys[ref] = key

    def _wanted(self) -> dict[str, dict[str, str]]:
        now = self._clock.now_ms()
        wanted: dict[str, dict[str, str]] = {}
        for key in self._keys.values():
            tenant = self._tenants.get(key.ref.tenant_id)
            if tenant is None or tenant.status in (None, "deleted"):
                continue
            users = wanted.setdefault(key.ref.tenant_id, {})
            if tenant.status == "active":
                users.update(key.users(now))
        return wanted
