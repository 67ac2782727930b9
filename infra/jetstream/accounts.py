"""The tenants' accounts on the embedded server: written, reloaded, their streams made.

Several handler processes do this; a lock on a file lets one of them at a time.
"""

import asyncio
import hashlib
import json
import logging
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

import orjson

from agentos.domain.errors import DependencyUnavailableError
from agentos.infra import nats_accounts as accounts_of
from agentos.infra.jetstream import api
from agentos.infra.jetstream.connection import (
    Connection,
    DisconnectedError,
    NoRespondersError,
    bounded_close,
    connect,
)
from agentos.infra.nats_accounts import EVENTS, TenantAccount
from agentos.infra.nats_server import NatsServer, write_config

LOCK_TIMEOUT: Final = 10.0
LOCK_EVERY: Final = 0.02
RELOAD_TIMEOUT: Final = 5.0
CONNECTING: Final = 3.0
logger = logging.getLogger(__name__)


class ReloadedAccounts:
    """Gives tenants their accounts by writing the server's configuration and reloading it."""

    def __init__(self, server: NatsServer) -> None:
        self._server = server
        self._home = server.home
        self._made: set[tuple[str, str]] = set()

    @property
    def address(self) -> str:
        """Where a subscriber connects, `host:port`."""
        return f"127.0.0.1:{self._server.port}"

    @asynccontextmanager
    async def lock(self) -> AsyncIterator[None]:
        """Hold the accounts for this process; `DependencyUnavailableError` after ten seconds."""
        import fcntl  # noqa: PLC0415 - not on Windows

        with (self._home / "accounts.lock").open("w") as file:
            deadline = asyncio.get_running_loop().time() + LOCK_TIMEOUT
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError as exc:
                    if asyncio.get_running_loop().time() > deadline:
                        raise api.unavailable("another process holds the accounts") from exc
                await asyncio.sleep(LOCK_EVERY)
            yield

    async def apply(self, users: Mapping[str, Mapping[str, str]]) -> None:
        """Let exactly these tenants have accounts, with these users and bcrypt hashes.

        Call it under `lock`. It returns once the server took it: whoever is left out is
        disconnected then. Nothing is done when the server has it. Raises
        `DependencyUnavailableError`.
        """
        known = accounts_of.read_accounts(self._home)
        if not (known or users):
            return
        wanted = {
            tenant_id: TenantAccount(tenant_id, _password(known.get(tenant_id)), dict(those))
            for tenant_id, those in users.items()
        }
        system = await connect(self._server.system_url, "agentos-accounts", timeout=CONNECTING)
        try:
            server_id = str(system._server_info["server_id"])
            if accounts_of.read_applied(self._home) != _digest(wanted, server_id):
                await self._change(system, server_id, known, wanted)
            for account in wanted.values():
                await self._make_stream(account, server_id)
        except OSError as exc:
            raise api.unavailable(f"the accounts cannot be written: {exc}") from exc
        finally:
            await bounded_close(system)

    async def _change(
        self,
        system: Connection,
        server_id: str,
        known: Mapping[str, TenantAccount],
        wanted: dict[str, TenantAccount],
    ) -> None:
        for tenant_id in known.keys() - wanted.keys():
            await self._remove_stream(known[tenant_id])
        accounts_of.write_accounts(self._home, wanted, applied="")
        write_config(self._server, wanted)
        # Twice: nats-server 2.15 binds the imports of an account that is new in a reload to
        # the core account as it was before; the next reload sets them right.
        for _ in range(2):
            await _reload(system, server_id)
        accounts_of.write_accounts(self._home, wanted, applied=_digest(wanted, server_id))
        logger.info("accounts of %d tenants are on the broker", len(wanted))

    async def _make_stream(self, account: TenantAccount, server_id: str) -> None:
        if (account.tenant_id, server_id) in self._made:
            return
        config = accounts_of.events_stream(account.tenant_id)
        manager = await self._manager(account)
        try:
            await api.repeated(
                manager, lambda: api.call(manager, f"STREAM.CREATE.{EVENTS}", config)
            )
        finally:
            await bounded_close(manager)
        self._made.add((account.tenant_id, server_id))

    async def _remove_stream(self, account: TenantAccount) -> None:
        manager = await self._manager(account)

        async def remove() -> None:
            try:
                await api.call(manager, f"STREAM.DELETE.{EVENTS}")
            except api.ApiError as exc:
                if exc.code != api.STREAM_NOT_FOUND:
                    raise

        try:
            await api.repeated(manager, remove)
        finally:
            await bounded_close(manager)
        self._made = {made for made in self._made if made[0] != account.tenant_id}

    async def _manager(self, account: TenantAccount) -> Connection:
        user = f"{account.manager}:{account.manager_password}"
        return await connect(f"nats://{user}@{self.address}", "agentos-events", timeout=CONNECTING)


async def _reload(system: Connection, server_id: str) -> None:
    try:
        reply = await system.ask(
            f"$SYS.REQ.SERVER.{server_id}.RELOAD", b"{}", timeout=RELOAD_TIMEOUT
        )
    except (TimeoutError, DisconnectedError, NoRespondersError) as exc:
        raise api.unavailable(f"NATS did not reload: {api.describe(exc)}") from exc
    if error := orjson.loads(reply.data).get("error"):
        raise DependencyUnavailableError(
            f"NATS refused its configuration: {error}", dependency="nats"
        )


def _password(known: TenantAccount | None) -> str:
    return known.manager_password if known else secrets.token_urlsafe(24)


def _digest(wanted: Mapping[str, TenantAccount], server_id: str) -> str:
    content = {t: [a.manager_password, a.users] for t, a in wanted.items()}
    text = json.dumps([server_id, content], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
