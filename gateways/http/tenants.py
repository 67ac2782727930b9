"""Who may come in: every tenant's state and every key, in memory, as the log tells them."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Container, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final, Protocol, cast

from agentos.domain.audit.chain import NODE_TENANT
from agentos.domain.auth import RUNTIME_ROLE, AuthContext
from agentos.domain.errors import (
    AgentOSError,
    DependencyUnavailableError,
    TenantDisabledError,
    TenantUnknownError,
    UnauthorizedError,
)
from agentos.domain.key.key import Key
from agentos.domain.log import Recorded, TailBatch
from agentos.domain.ports import EventLog
from agentos.domain.tenant.tenant import (
    Tenant,
    TenantCreated,
    TenantDeleted,
    TenantDisabled,
    TenantEnabled,
    tenant_ref,
)

log = logging.getLogger(__name__)

RETRY_S: Final = 0.2
READ_S: Final = 2.0
KINDS: Final = (Tenant.KIND, Key.KIND)
STATUS: Final = {
    TenantCreated.TYPE: "active",
    TenantEnabled.TYPE: "active",
    TenantDisabled.TYPE: "disabled",
    TenantDeleted.TYPE: "deleted",
}


class Tenants(Protocol):
    """Which tenants may act."""

    @property
    def active(self) -> Container[str]:
        """The ids of tenants that are known to be active."""
        ...

    async def require(self, tenant_id: str) -> None:
        """Return if the tenant is active by the log, else raise why it is not."""
        ...


def goes_on(auth: AuthContext) -> bool:
    """Whether a caller comes in although its tenant is not active.

    Runs of a disabled tenant drain: the runtime goes on with what was begun. A peer that asks
    on its own behalf has no tenant here, and no tenant's rights.
    """
    is_node = auth.stack_id is not None and auth.tenant_id == NODE_TENANT
    return is_node or RUNTIME_ROLE in auth.roles


@dataclass(slots=True)
class KnownKey:
    """A key, whom it identifies once that was asked, and the headers that it came in so far."""

    key: Key
    auth: AuthContext | None = None
    headers: set[str] = field(default_factory=set)


class SharedRead:
    """A read that serves all who asked before it began; who asks later gets another one."""

    def __init__(self, read: Callable[[], Awaitable[None]]) -> None:
        self._read = read
        self._lock = asyncio.Lock()
        self._began = float("-inf")
        self._error: AgentOSError | None = None

    async def __call__(self) -> None:
        """Return after a read that began after this call; raises what that read raised."""
        loop = asyncio.get_running_loop()
        asked = loop.time()
        async with self._lock:
            if self._began < asked:
                began = loop.time()
                await self._try()
                self._began = began
            if self._error is not None:
                raise self._error

    async def _try(self) -> None:
        self._error = None
        try:
            async with asyncio.timeout(READ_S):
                await self._read()
        except TimeoutError:
            self._error = DependencyUnavailableError("the log is not reached", dependency="nats")
        except AgentOSError as error:
            self._error = error


class Accounts:
    """The directory of a gateway process: one tail of the log from its beginning.

    Nothing is refused from it before it has read on: `require` and `read_on`. `used` has when
    (epoch seconds) keys were used since that was last written elsewhere.
    """

    def __init__(self, event_log: EventLog) -> None:
        self._log = event_log
        self._positions: dict[str, int] = {}
        self._status: dict[str, str] = {}
        self._position = 0
        self.active: set[str] = set()
        self.keys: dict[str, KnownKey] = {}
        self._by_auth: dict[int, KnownKey] = {}
        self.used: dict[str, float] = {}
        self.caught_up = asyncio.Event()
        self.read_on = SharedRead(self._read_on)
        self.on_key: list[Callable[[KnownKey], None]] = []
        self.on_closed: list[Callable[[], None]] = []

    async def run(self) -> None:
        """Tail the log until cancelled. What cannot be reached is tried again for ever."""
        while True:
            try:
                await self._follow()
            except DependencyUnavailableError as error:
                log.warning("tenants and keys lost the log: %s", error)
            await asyncio.sleep(RETRY_S)

    async def require(self, tenant_id: str) -> None:
        """Return if the tenant is active by the log; as `Tenants.require`.

        Raises `TenantUnknownError`, `TenantDisabledError`, and `DependencyUnavailableError`
        when the log cannot be asked.
        """
        if tenant_id in self.active:
            return
        ref, known = tenant_ref(tenant_id), self._positions.get(tenant_id, 0)
        try:
            async with asyncio.timeout(READ_S):
                last = await self._log.last(ref)
                if last is not None and last.position > known:
                    self._take(await self._log.read(ref, after=known))
        except TimeoutError as exc:
            raise DependencyUnavailableError("the log is not reached", dependency="nats") from exc
        if (error := self._refusal(tenant_id)) is not None:
            raise error

    def refusal(self, auth: AuthContext) -> AgentOSError | None:
        """Return why a caller who was admitted may not go on, by what is known here."""
        if auth.tenant_id not in self.active and not goes_on(auth):
            return self._refusal(auth.tenant_id)
        known = self._by_auth.get(id(auth))
        if known is not None and known.key.status != "active":
            return UnauthorizedError("the key was revoked")
        return None

    def identifies(self, known: KnownKey, auth: AuthContext) -> None:
        """Remember that `auth`, this very object, is the caller of a key from now on."""
        known.auth = auth
        self._by_auth[id(auth)] = known  # never freed: the key holds it

    def _refusal(self, tenant_id: str) -> AgentOSError | None:
        match self._status.get(tenant_id):
            case "active":
                return None
            case "disabled":
                return TenantDisabledError("the tenant is disabled")
            case _:
                return TenantUnknownError("the tenant does not exist")

    async def _follow(self) -> None:
        async with aclosing(self._tail()) as opened:
            async for batch in opened:
                self._take(batch.records)
                self._advance(batch)
                if batch.caught_up:
                    self.caught_up.set()

    async def _read_on(self) -> None:
        async with aclosing(self._tail()) as opened:
            async for batch in opened:
                self._take(batch.records)
                self._advance(batch)
                if batch.caught_up:
                    return

    def _tail(self) -> AsyncGenerator[TailBatch]:
        batches = self._log.tail(after=self._position, kinds=KINDS)
        return cast("AsyncGenerator[TailBatch]", batches)

    def _advance(self, batch: TailBatch) -> None:
        if batch.records:
            self._position = max(self._position, batch.records[-1].position)

    def _take(self, records: Sequence[Recorded]) -> None:
        for record in records:
            if record.ref.kind == Tenant.KIND:
                self._take_tenant(record)
            else:
                self._take_key(record)

    def _take_tenant(self, record: Recorded) -> None:
        """Evolve a tenant's state; the types say it, so that no profile is parsed."""
        tenant_id = record.ref.tenant_id
        if record.position <= self._positions.get(tenant_id, 0):
            return
        self._positions[tenant_id] = record.position
        for name in record.types:
            if (status := STATUS.get(name)) is not None:
                self._status[tenant_id] = status
        if self._status.get(tenant_id) == "active":
            self.active.add(tenant_id)
        elif tenant_id in self.active:
            self.active.discard(tenant_id)
            self._tell_closed()

    def _take_key(self, record: Recorded) -> None:
        known = self.keys.get(record.ref.aggregate_id)
        if known is None:
            known = KnownKey(Key(record.ref))
        if record.position <= known.key.position or known.key.ref != record.ref:
            return
        known.key.fold([record])
        if known.key.status is not None:
            self.keys[record.ref.aggregate_id] = known
        for tell in self.on_key:
            tell(known)
        if known.auth is not None and known.key.status != "active":
            self._tell_closed()

    def _tell_closed(self) -> None:
        for tell in self.on_closed:
            tell()
