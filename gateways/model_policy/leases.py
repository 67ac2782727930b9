"""What a process has leased of a tenant's budget, and what of that it has handed out."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from agentos.domain.admission.budgets import Budget
from agentos.domain.admission.windows import window_end

MOST: Final = 10**15
FIRST_SCALE: Final = 16
LEAST_SCALE: Final = 8
MOST_SCALE: Final = 16_384
FAST_S: Final = 1.0
SLOW_S: Final = 5.0
Amounts = dict[str, int]


class Lease:
    """One hold of the ledger. A block is handed out in parts until `until_ms`.

    `free` is handed out to nobody, `spent` is what ended calls came to; the rest is worst
    cases of calls in hand. `free` is below zero while calls used more than they had reserved.
    """

    __slots__ = ("_account", "calls", "free", "hold_id", "is_block", "is_open", "spent", "until_ms")

    def __init__(
        self, account: "Account", hold_id: str, granted: Mapping[str, Any], until_ms: int
    ) -> None:
        self._account = account
        self.hold_id = hold_id
        self.free: Amounts = dict(granted["amounts"])
        self.spent: Amounts = dict.fromkeys(self.free, 0)
        self.until_ms = until_ms
        self.is_block = bool(granted.get("block"))
        self.is_open = True
        self.calls = 0

    def take(self, worst: Mapping[str, int]) -> "Reservation | None":
        """Hand out a worst case, if it fits."""
        free = self.free
        for unit, amount in worst.items():
            if amount > free.get(unit, 0):
                return None
        for unit, amount in worst.items():
            free[unit] -= amount
        self.calls += 1
        return Reservation(self, worst)

    def end(self, worst: Mapping[str, int], used: Mapping[str, int]) -> None:
        """Count what a call came to; what it did not use is free again."""
        for unit, amount in worst.items():
            self.free[unit] += amount - used[unit]
            self.spent[unit] = min(MOST, self.spent[unit] + used[unit])
        self.calls -= 1
        if not self.calls and not self.is_open:
            self._account.ended(self)

    def close(self) -> None:
        """Hand out nothing more."""
        if not self.is_open:
            return
        self.is_open = False
        if not self.calls:
            self._account.ended(self)
        elif self.is_block:
            back = {unit: amount for unit, amount in self.free.items() if amount > 0}
            for unit, amount in back.items():
                self.free[unit] -= amount
            self._account.comes_back(self, back)


class Reservation:
    """The worst case of one call. `settle` or `release` it once; again changes nothing.

    `reserved` has only the units that a budget is about, nothing where there is none.
    """

    __slots__ = ("_lease", "reserved", "settled")

    def __init__(self, lease: Lease | None, reserved: Mapping[str, int]) -> None:
        self._lease = lease
        self.reserved = reserved
        self.settled: Mapping[str, int] | None = None

    def settle(self, used: Mapping[str, int]) -> None:
        """Count what the call came to; in memory, at once.

        More than was reserved counts as what it is: the block takes it, or the budget is that
        much over, and refuses until its window ends. A unit that is not named used nothing.
        """
        if self.settled is not None:
            return
        self.settled = {unit: min(max(used.get(unit, 0), 0), MOST) for unit in self.reserved}
        if self._lease is not None:
            self._lease.end(self.reserved, self.settled)
            self._lease = None

    def release(self) -> None:
        """The call never began: it used nothing, and was no request either."""
        self.settle({})


class Account:
    """One tenant's budgets, and its leases in this process.

    `done` holds leases whose calls have all ended, `parts` what of closed blocks comes back;
    both wait to be told to the ledger; `on_owed` hears that there is something.
    """

    def __init__(self, tenant_id: str, on_owed: Callable[["Account"], None]) -> None:
        self.tenant_id = tenant_id
        self.version = -1
        self.budgets: Sequence[Budget] = ()
        self.units: tuple[str, ...] = ()
        self.block: Lease | None = None
        self.done: dict[str, Mapping[str, int]] = {}
        self.parts: dict[str, Mapping[str, int]] = {}
        self.telling = asyncio.Lock()
        self.is_tight = False
        self.used_at = 0.0
        self._on_owed = on_owed
        self._scale = FIRST_SCALE
        self._leased_at = 0.0

    @property
    def owes(self) -> bool:
        """Whether the ledger is to be told something."""
        return bool(self.done or self.parts)

    def renew(self, version: int, budgets: Sequence[Budget]) -> None:
        """Take other limits; a block that was leased under the old ones is closed."""
        self.close_block()
        self.version = version
        self.budgets = budgets
        self.units = tuple(dict.fromkeys(budget.unit for budget in budgets))
        self.is_tight = False

    def worst(self, asked: Mapping[str, int]) -> Amounts:
        """Return what of a worst case any budget is about."""
        return {unit: min(MOST, max(0, asked.get(unit, 0))) for unit in self.units}

    def could_fit(self, worst: Mapping[str, int]) -> bool:
        """Whether it would fit if nothing else were held or used."""
        return all(worst.get(budget.unit, 0) <= budget.limit for budget in self.budgets)

    # Handing out

    def take(self, worst: Mapping[str, int], now_ms: int) -> Reservation | None:
        """Hand out from the block, while it may be and there is enough."""
        block = self.block
        if block is None:
            return None
        if now_ms >= block.until_ms:
            self.close_block()
            return None
        return block.take(worst)

    def close_block(self) -> None:
        """Hand out nothing more of the block."""
        if (block := self.block) is not None:
            self.block = None
            block.close()

    def close_idle(self, now_ms: int, idle_since: float) -> None:
        """Close a block that nobody used lately, or whose time is up."""
        block = self.block
        if block is not None and (now_ms >= block.until_ms or self.used_at < idle_since):
            self.close_block()

    # Leasing

    def wish(self, waiting: Iterable[Mapping[str, int]]) -> Amounts:
        """Return the block that would do for a while: the faster it went, the larger."""
        total: Amounts = dict.fromkeys(self.units, 0)
        first: Mapping[str, int] | None = None
        for worst in waiting:
            first = first or worst
            for unit in self.units:
                total[unit] += worst.get(unit, 0)
        each = first or {}
        return {u: min(MOST, max(each.get(u, 0) * self._scale, total[u])) for u in self.units}

    def leased(
        self, hold_id: str, granted: Mapping[str, Any], longest_ms: int, now: float
    ) -> Lease:
        """Take in what was granted; a block is closed at the end of the shortest window."""
        reserved_at: int = granted["reserved_at"]
        ends = (window_end(budget.span, reserved_at) for budget in self.budgets)
        until_ms = min((end for end in ends if end), default=reserved_at + longest_ms)
        lease = Lease(self, hold_id, granted, min(until_ms, reserved_at + longest_ms))
        self.is_tight = not lease.is_block
        if lease.is_block:
            self.close_block()
            self.block, self._leased_at = lease, now
            self.used_at = now
        else:
            self._scale = max(self._scale // 2, LEAST_SCALE)
        return lease

    def exhausted(self, now: float) -> None:
        """Close the block, which has not enough; learn from how long it lasted."""
        if self.block is not None:
            lasted = now - self._leased_at
            if lasted < FAST_S:
                self._scale = min(self._scale * 4, MOST_SCALE)
            elif lasted > SLOW_S:
                self._scale = max(self._scale // 2, LEAST_SCALE)
            self.close_block()

    # What the ledger is to be told

    def ended(self, lease: Lease) -> None:
        """Take note of what a lease came to."""
        self.parts.pop(lease.hold_id, None)
        self.done[lease.hold_id] = lease.spent
        self._on_owed(self)

    def comes_back(self, lease: Lease, part: Amounts) -> None:
        """Take note that a block is closed, and what of it was handed out to nobody."""
        self.parts[lease.hold_id] = part
        self._on_owed(self)

    def let_go(self, hold_ids: Iterable[str]) -> None:
        """Take note of holds that nobody uses, if they are there at all."""
        self.done |= {hold_id: {} for hold_id in hold_ids}
        self._on_owed(self)

    def told(self, done: Mapping[str, object], parts: Mapping[str, object]) -> None:
        """Strike off what the ledger knows by now."""
        for hold_id in done:
            self.done.pop(hold_id, None)
        for hold_id in parts:
            self.parts.pop(hold_id, None)
