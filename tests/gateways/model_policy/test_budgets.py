"""Leased budgets: several gateway processes, and never more than the limit."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from agentos.domain.admission.events import QuotaReserved
from agentos.domain.admission.ledger import Ledger, ledger_ref
from agentos.domain.aggregate import read_events
from agentos.domain.auth import AuthContext
from agentos.domain.errors import DependencyUnavailableError, QuotaExceededError, RateLimitedError
from agentos.domain.log import Commit
from agentos.domain.tenant.tenant import Profile, Tenant, tenant_ref
from agentos.gateways.model_policy.budgets import Budgets
from agentos.gateways.model_policy.leases import Reservation
from agentos.handlers.parts import Parts
from agentos.handlers.routes import handle
from agentos.infra.memory.bus import MemoryBus
from tests.domain.given import moment
from tests.handlers.node import Node, UnevenLog, a_node, settle
from tests.handlers.virtual import virtual_time

EACH = {"requests": 1, "tokens": 100, "micro_usd": 7}
USED = {"requests": 1, "tokens": 60, "micro_usd": 3}


class World:
    """A node with handlers, and gateway processes that lease from it."""

    def __init__(self, node: Node, parts: list[Parts]) -> None:
        self.node = node
        self.parts = parts
        self.asked: list[str] = []

    def bus(self, at: int = 0) -> MemoryBus:
        """Return a bus to one of the handler processes."""

        async def reserve(auth: AuthContext, command: Mapping[str, Any]) -> dict[str, Any]:
            return await self._handle(at, "quota.reserve", auth, command)

        async def settled(auth: AuthContext, command: Mapping[str, Any]) -> dict[str, Any]:
            return await self._handle(at, "quota.settle", auth, command)

        return MemoryBus({"quota.reserve": reserve, "quota.settle": settled})

    async def _handle(
        self, at: int, name: str, auth: AuthContext, command: Mapping[str, Any]
    ) -> dict[str, Any]:
        self.asked.append(name)
        message = {"auth": auth.model_dump(), "command": dict(command)}
        return await handle(self.parts[at % len(self.parts)], name, message)

    async def budgets(self, at: int = 0, *, skew_ms: int = 0) -> Budgets:
        """Start a gateway process's budgets."""
        clock = type(self.node.clock)(skew_ms)
        budgets = Budgets(self.bus(at), clock, self.node.new_id, self.node.signals)
        self.node.own(budgets.run())
        await settle(0.001)
        return budgets

    async def tenant(self, quotas: dict[str, Any], **profile: Any) -> Tenant:
        """Make the tenant with those model quotas, or change it."""
        ref = tenant_ref("tnt_a")
        tenant = Tenant(ref).fold(await self.node.log.read(ref))
        body = {"name": "A", "plan_tier": "demo", "quotas": {"models": quotas}, **profile}
        new = Profile.model_validate(body)
        at = moment(self.node.clock.now_ms(), self.node.new_id)
        events = tenant.update(new, at) if tenant.position else tenant.create(new, at)
        await self.node.write(ref, events, tenant.position)
        return tenant.fold(await self.node.log.read(ref, after=tenant.position))

    async def ledger(self) -> Ledger:
        """Return the ledger as the log has it."""
        ledger = Ledger(ledger_ref("tnt_a", "models"))
        ledger.catch_up(await self.node.log.read(ledger.ref))
        return ledger

    async def used(self, unit: str = "tokens", span: Any = "day") -> int:
        """Return what counts now."""
        return (await self.ledger()).used(span, unit, self.node.clock.now_ms())

    async def most_used(self, unit: str = "tokens", span: Any = "day") -> int:
        """Return the most that was ever counted in one window."""
        ledger, most = Ledger(ledger_ref("tnt_a", "models")), 0
        for record in await self.node.log.read(ledger.ref):
            for event in read_events(record, Ledger.PAYLOADS):
                ledger.evolve(event)
                if isinstance(event.payload, QuotaReserved):
                    most = max(most, ledger.used(span, unit, event.time))
        return most


@asynccontextmanager
async def a_world(log: UnevenLog | None = None, handlers: int = 1) -> AsyncIterator[World]:
    async with a_node(log) as node:
        yield World(node, [await node.handlers() for _ in range(handlers)])


def daily(tokens: int) -> dict[str, Any]:
    return {"token_budget": {"window": "day", "max_tokens": tokens}}


async def tried(budgets: Budgets, tenant: Tenant, worst: dict[str, int]) -> Reservation | None:
    try:
        return await budgets.reserve(tenant, worst)
    except QuotaExceededError:
        return None


@virtual_time
async def test_a_tenant_without_budgets_asks_nobody() -> None:
    async with a_world() as world:
        tenant = await world.tenant({})
        budgets = await world.budgets()
        reservation = await budgets.reserve(tenant, EACH)
        reservation.settle(USED)
        await settle(5)
        assert world.asked == []
        assert reservation.reserved == {}


@virtual_time
async def test_one_append_leases_for_many_calls() -> None:
    async with a_world() as world:
        tenant = await world.tenant(daily(1_000_000))
        budgets = await world.budgets()
        for _ in range(16):
            (await budgets.reserve(tenant, EACH)).settle(USED)
        assert world.asked == ["quota.reserve"]
        await settle(5)
        assert await world.used() == 16 * 60
        assert not (await world.ledger()).holds


@virtual_time
async def test_sixty_at_the_edge_over_three_processes_exactly_fill_the_limit() -> None:
    async with a_world(UnevenLog(seed=3), handlers=2) as world:
        tenant = await world.tenant(daily(2_350))
        processes = [await world.budgets(n) for n in range(3)]
        asked = [tried(processes[n % 3], tenant, EACH) for n in range(60)]
        granted = [r for r in await asyncio.gather(*asked) if r is not None]
        assert len(granted) == 23
        assert await world.most_used() <= 2_350


@virtual_time
async def test_what_others_lease_and_do_not_use_comes_back_before_anybody_is_refused() -> None:
    async with a_world() as world:
        tenant = await world.tenant(daily(100_000))
        here, there = await world.budgets(), await world.budgets()
        held = await here.reserve(tenant, EACH)  # and a block of sixteen
        assert await world.used() == 1600
        large = await there.reserve(tenant, {**EACH, "tokens": 99_900})
        assert await tried(there, tenant, {**EACH, "tokens": 1}) is None
        held.settle(USED)
        large.settle({"requests": 1, "tokens": 5})
        await settle(1)
        assert await world.used() == 65


@virtual_time
async def test_requests_over_the_rate_are_told_when_to_come_back() -> None:
    async with a_world() as world:
        tenant = await world.tenant({"max_requests_per_minute": 3})
        budgets = await world.budgets()
        for _ in range(3):
            (await budgets.reserve(tenant, EACH)).settle(USED)
        with pytest.raises(RateLimitedError) as refused:
            await budgets.reserve(tenant, EACH)
        wait_ms = refused.value.details["retry_after_ms"]
        assert 0 < wait_ms <= 60_000
        await asyncio.sleep(wait_ms / 1000)
        await budgets.reserve(tenant, EACH)


@virtual_time
async def test_a_spent_budget_says_so_and_is_not_to_be_tried_again() -> None:
    async with a_world() as world:
        tenant = await world.tenant(daily(150))
        budgets = await world.budgets()
        await budgets.reserve(tenant, EACH)
        with pytest.raises(QuotaExceededError) as refused:
            await budgets.reserve(tenant, EACH)
        wire = refused.value.to_wire()
        assert wire["retryable"] is False
        assert wire["details"] | {"resets_at": ""} == {
            "limit": 150,
            "used": 100,
            "unit": "tokens",
            "window": "day",
            "resets_at": "",
        }


@virtual_time
async def test_the_policys_token_budget_is_a_further_limit() -> None:
    async with a_world() as world:
        policy = {"token_budget": {"max_tokens_per_hour": 250}}
        tenant = await world.tenant(daily(1_000_000), policy=policy)
        budgets = await world.budgets()
        assert [await tried(budgets, tenant, EACH) is not None for _ in range(3)] == [
            True,
            True,
            False,
        ]


@virtual_time
async def test_a_block_is_not_handed_out_in_a_later_window() -> None:
    async with a_world() as world:
        tenant = await world.tenant({"max_requests_per_minute": 1000})
        budgets = await world.budgets()
        first = await budgets.reserve(tenant, EACH)
        now = world.node.clock.now_ms()
        await asyncio.sleep((60_000 - now % 60_000) / 1000)
        await budgets.reserve(tenant, EACH)
        assert world.asked.count("quota.reserve") == 2
        first.settle(USED)  # counts in the window that reserved it
        await settle(0.1)
        assert await world.used("requests", "minute") == 16
        await settle(5)
        assert await world.used("requests", "minute") == 1


@virtual_time
async def test_a_busy_block_ends_with_its_window_too() -> None:
    async with a_world() as world:
        tenant = await world.tenant({"max_requests_per_minute": 1000})
        await asyncio.sleep(0.5)  # so that it does not look after idle blocks at that moment
        budgets = await world.budgets()
        now = world.node.clock.now_ms()
        await asyncio.sleep((60_000 - now % 60_000) / 1000 - 0.01)
        (await budgets.reserve(tenant, EACH)).settle(USED)
        await asyncio.sleep(0.02)
        (await budgets.reserve(tenant, EACH)).settle(USED)
        assert world.asked.count("quota.reserve") == 2
        await settle(5)
        assert await world.used("requests", "minute") == 1


@virtual_time
async def test_a_call_that_never_began_counts_nothing_and_a_blocked_one_a_request() -> None:
    async with a_world() as world:
        tenant = await world.tenant({**daily(100_000), "max_requests_per_minute": 1000})
        budgets = await world.budgets()
        (await budgets.reserve(tenant, EACH)).release()
        blocked = await budgets.reserve(tenant, EACH)
        blocked.settle({"requests": 1})
        blocked.settle(USED)  # once is enough
        await settle(5)
        assert await world.used() == 0
        assert await world.used("requests", "minute") == 1


@virtual_time
async def test_more_than_was_reserved_counts_as_what_it_is() -> None:
    async with a_world() as world:
        tenant = await world.tenant(daily(150))
        budgets = await world.budgets()
        (await budgets.reserve(tenant, EACH)).settle({"requests": 1, "tokens": 170})
        await settle(1)
        assert await world.used() == 170
        assert await tried(budgets, tenant, {"tokens": 1}) is None


@virtual_time
async def test_who_leaves_while_waiting_holds_nothing() -> None:
    async with a_world() as world:
        tenant = await world.tenant(daily(150))
        budgets = await world.budgets()
        waiting = asyncio.create_task(budgets.reserve(tenant, EACH))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await settle(1)
        assert await world.used() == 0


@virtual_time
async def test_a_crashed_process_costs_its_block_and_no_more() -> None:
    async with a_world() as world:
        tenant = await world.tenant(daily(100_000))
        crashed = Budgets(world.bus(), world.node.clock, world.node.new_id)  # it never tells
        (await crashed.reserve(tenant, EACH)).settle(USED)
        other = await world.budgets()
        (await other.reserve(tenant, EACH)).settle(USED)
        await settle(5)
        assert await world.used() == 1600 + 60
        await asyncio.sleep(901)
        await world.parts[0].ledgers.expire()
        assert await world.used() == 1600 + 60
        assert not (await world.ledger()).holds


@virtual_time
async def test_other_limits_hold_at_once() -> None:
    async with a_world() as world:
        tenant = await world.tenant(daily(100_000))
        budgets = await world.budgets()
        (await budgets.reserve(tenant, EACH)).settle(USED)
        tenant = await world.tenant(daily(50))
        await settle(0.1)
        assert await tried(budgets, tenant, EACH) is None


@virtual_time
async def test_stopping_gives_everything_back() -> None:
    async with a_world() as world:
        tenant = await world.tenant(daily(100_000))
        budgets = Budgets(world.bus(), world.node.clock, world.node.new_id)
        running = asyncio.create_task(budgets.run())
        (await budgets.reserve(tenant, EACH)).settle(USED)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert await world.used() == 60


@virtual_time
async def test_an_unclear_answer_leaves_nothing_held() -> None:
    log = UnevenLog(seed=7)
    failures = iter(["after", "before"])

    def fail(commit: Commit) -> str | None:
        return next(failures, None) if commit.ref.aggregate_id == "models" else None

    async with a_world(log) as world:
        tenant = await world.tenant(daily(300))
        budgets = await world.budgets()
        log.fail = fail
        for _ in range(2):
            with pytest.raises(DependencyUnavailableError):
                await budgets.reserve(tenant, EACH)
        await settle(5)
        assert await world.used() == 0
