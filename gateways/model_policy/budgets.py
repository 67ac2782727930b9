"""A tenant's budgets in a gateway process: leased by the block, handed out from memory.

The ledger decides (`quota.reserve`); what it grants is held there at its worst case, so that
however many processes there are, and however they end, no limit is passed.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from agentos.domain.admission.budgets import budgets_of
from agentos.domain.auth import system_auth
from agentos.domain.envelope import NO_TRACE
from agentos.domain.errors import AgentOSError, error_from_wire
from agentos.domain.ports import Clock, CommandBus, NewId, Signals
from agentos.domain.subjects import ALL_BUDGET_NOTICES, budget_notice
from agentos.domain.tenant.tenant import Tenant
from agentos.gateways.http.readiness import listen_for_ever
from agentos.gateways.model_policy.leases import Account, Amounts, Reservation

log = logging.getLogger(__name__)

TOGETHER: Final = 256
LEASE_MS: Final = 10_000
IDLE_S: Final = 3.0
TICK_S: Final = 1.0
GATHER_S: Final = 0.02
RECALLS_S: Final = (0.04, 0.1, 0.2)
SEND_S: Final = 5.0
STOP_S: Final = 3.0
CACHED: Final = 20_000
AT_ONCE: Final = 16


@dataclass(eq=False, slots=True)
class Waiting:
    """A call that waits for its worst case to be held."""

    worst: Amounts
    done: asyncio.Future[Reservation]

    def serve(self, reservation: Reservation) -> None:
        """Hand over what is held; whoever left meanwhile holds nothing."""
        if self.done.done():
            reservation.release()
        else:
            self.done.set_result(reservation)

    def refuse(self, error: AgentOSError) -> None:
        """Say why nothing is held."""
        if not self.done.done():
            self.done.set_exception(error)


Refused = dict[Waiting, AgentOSError]


class Budgets:
    """Reserves the worst case of each model call of this process.

    `signals` bring other processes to give back what they lease of a budget that is nearly
    spent; without them it comes back when they have no use for it, seconds later.
    """

    def __init__(
        self, bus: CommandBus, clock: Clock, new_id: NewId, signals: Signals | None = None
    ) -> None:
        self._bus = bus
        self._clock = clock
        self._new_id = new_id
        self._signals = signals
        self._accounts: OrderedDict[str, Account] = OrderedDict()
        self._waiting: dict[str, list[Waiting]] = {}
        self._filling: set[asyncio.Task[None]] = set()
        self._owing: set[Account] = set()
        self._due = asyncio.Event()
        self._looked_at = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None

    async def reserve(self, tenant: Tenant, worst: Mapping[str, int]) -> Reservation:
        """Hold what a call may use at most: `requests`, `tokens`, `micro_usd`.

        A tenant without budgets waits for nothing, one with a block at hand neither. Raises
        `RateLimitedError` (`retry_after_ms`), `QuotaExceededError` (`limit`, `used`, `unit`,
        `window`, `resets_at`; not retryable), `TenantUnknownError`,
        `DependencyUnavailableError`. Whoever is cancelled meanwhile holds nothing.
        """
        account = self._account(tenant)
        if not account.budgets:
            return Reservation(None, {})
        needed = account.worst(worst)
        if account.tenant_id not in self._waiting:
            taken = account.take(needed, self._clock.now_ms())
            if taken is not None:
                account.used_at = self._now()
                return taken
        return await self._wait(account, needed)

    async def run(self) -> None:
        """Tell the ledger what calls came to, until cancelled; gives everything back then."""
        parts = [self._tell_for_ever()]
        if self._signals is not None:
            parts.append(listen_for_ever(self._signals, ALL_BUDGET_NOTICES, self._on_notice))
        try:
            await asyncio.gather(*parts)
        finally:
            await self.give_back()

    async def give_back(self) -> None:
        """Close every block and tell what is to be told, within seconds."""
        for account in self._accounts.values():
            account.close_block()
        try:
            async with asyncio.timeout(STOP_S):
                await self._tell_all()
        except TimeoutError:
            pass
        if self._owing:
            log.warning("leases of %d tenants stay: they count as spent", len(self._owing))

    # What a tenant may use

    def _account(self, tenant: Tenant) -> Account:
        tenant_id = tenant.ref.tenant_id
        account = self._accounts.get(tenant_id)
        if account is None:
            account = self._accounts[tenant_id] = Account(tenant_id, self._owes)
            self._forget_one()
        if account.version != tenant.position:
            account.renew(tenant.position, budgets_of(tenant, "models"))
        return account

    def _owes(self, account: Account) -> None:
        self._owing.add(account)
        self._due.set()

    def _forget_one(self) -> None:
        if len(self._accounts) <= CACHED:
            return
        tenant_id, oldest = next(iter(self._accounts.items()))
        if oldest.block is None and not oldest.owes and tenant_id not in self._waiting:
            del self._accounts[tenant_id]
        else:
            self._accounts.move_to_end(tenant_id)

    # Asking the ledger

    async def _wait(self, account: Account, worst: Amounts) -> Reservation:
        waiting = Waiting(worst, asyncio.get_running_loop().create_future())
        if (others := self._waiting.get(account.tenant_id)) is not None:
            others.append(waiting)
        else:
            self._waiting[account.tenant_id] = [waiting]
            task = asyncio.create_task(self._fill(account))
            self._filling.add(task)
            task.add_done_callback(self._filling.discard)
        try:
            return await waiting.done
        except asyncio.CancelledError:
            if not waiting.done.cancelled() and waiting.done.exception() is None:
                waiting.done.result().release()
            raise

    async def _fill(self, account: Account) -> None:
        """Serve who waits, until nobody does."""
        waiting = self._waiting[account.tenant_id]
        try:
            while waiting:
                some = waiting[:TOGETHER]
                del waiting[:TOGETHER]
                try:
                    await self._serve(account, some)
                except AgentOSError as error:
                    for one in some:
                        one.refuse(error)
        finally:
            del self._waiting[account.tenant_id]

    async def _serve(self, account: Account, some: Sequence[Waiting]) -> None:
        """Serve or refuse these; nobody is refused while something might come back."""
        recalls = iter(RECALLS_S)
        while left := self._from_block(account, some):
            refused, is_leased = await self._ask(account, left)
            if not refused:
                continue
            if account.owes:
                await self._tell(account)
                continue
            might_fit = is_leased and any(account.could_fit(one.worst) for one in refused)
            if might_fit and self._signals is not None and (pause := next(recalls, None)):
                await self._signals.publish(budget_notice(account.tenant_id), b"")
                await asyncio.sleep(pause)
                continue
            for one, error in refused.items():
                one.refuse(error)

    def _from_block(self, account: Account, some: Sequence[Waiting]) -> list[Waiting]:
        """Hand out what the block has; returns who still waits."""
        left: list[Waiting] = []
        for one in some:
            if one.done.done():
                continue
            taken = account.take(one.worst, self._clock.now_ms())
            if taken is None:
                left.append(one)
            else:
                one.serve(taken)
        return left

    async def _ask(self, account: Account, left: Sequence[Waiting]) -> tuple[Refused, bool]:
        """Ask for a block or, where none is to be had, for each call; returns who got nothing."""
        account.exhausted(self._now())
        asked = {self._new_id("hld"): one for one in (left if account.is_tight else left[:1])}
        holds: list[dict[str, Any]] = [
            {"hold_id": hold_id, "amounts": one.worst} for hold_id, one in asked.items()
        ]
        holds[0]["block"] = account.wish([one.worst for one in left])
        command = {"traceparent": NO_TRACE, "resource": "models", "holds": holds}
        try:
            answer = await self._bus.send(
                "quota.reserve", system_auth(account.tenant_id), command, timeout=SEND_S
            )
        except BaseException:
            # It may be held all the same: let go of it.
            account.let_go(asked)
            raise
        account.is_tight = True
        for hold_id, granted in answer["granted"].items():
            self._take_in(account, asked[hold_id], hold_id, granted)
        refused = {asked[i]: error_from_wire(wire) for i, wire in answer["refused"].items()}
        return refused, bool(answer["leased"])

    def _take_in(
        self, account: Account, one: Waiting, hold_id: str, granted: Mapping[str, Any]
    ) -> None:
        lease = account.leased(hold_id, granted, LEASE_MS, self._now())
        taken = lease.take(one.worst)
        if taken is not None:
            one.serve(taken)
        if not lease.is_block:
            lease.close()

    # Telling the ledger

    async def _tell_for_ever(self) -> None:
        while True:
            await self._tick()

    async def _tick(self) -> None:
        try:
            async with asyncio.timeout(TICK_S):
                await self._due.wait()
            await asyncio.sleep(GATHER_S)
        except TimeoutError:
            pass
        self._due.clear()
        if self._now() - self._looked_at >= TICK_S:
            self._looked_at = self._now()
            for account in self._accounts.values():
                account.close_idle(self._clock.now_ms(), self._looked_at - IDLE_S)
        if not await self._tell_all():
            await asyncio.sleep(TICK_S)

    async def _tell_all(self) -> bool:
        """Tell what all accounts owe; whether everything was delivered."""
        room = asyncio.Semaphore(AT_ONCE)

        async def tell(account: Account) -> bool:
            async with room:
                try:
                    await self._tell(account)
                except AgentOSError as error:
                    log.warning("the ledger is not told yet: %s", error)
                    return False
                return True

        return all(await asyncio.gather(*(tell(account) for account in list(self._owing))))

    async def _tell(self, account: Account) -> None:
        """Tell what leases came to; what cannot be delivered is kept for the next time."""
        async with account.telling:
            while account.owes:
                done = dict(islice(account.done.items(), TOGETHER))
                parts = dict(islice(account.parts.items(), TOGETHER))
                command = {"traceparent": NO_TRACE, "resource": "models"}
                await self._bus.send(
                    "quota.settle",
                    system_auth(account.tenant_id),
                    {**command, "amounts": done, "parts": parts},
                    timeout=SEND_S,
                )
                account.told(done, parts)
            self._owing.discard(account)

    def _on_notice(self, subject: str, data: bytes) -> None:
        account = self._accounts.get(subject.rpartition(".")[2])
        if account is not None:
            account.close_block()

    def _now(self) -> float:
        """Return the loop's time; asking which loop runs is a system call, done once."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        return self._loop.time()
