"""Ledgers over several handler processes: exact at every moment, whatever the log does."""

import asyncio
from typing import Any

import pytest

from agentos.domain.admission.events import QuotaReserved
from agentos.domain.admission.ledger import Ledger, ledger_ref
from agentos.domain.aggregate import read_events
from agentos.domain.errors import DependencyUnavailableError, TenantUnknownError
from agentos.domain.log import Commit
from agentos.domain.tenant.tenant import Profile, Tenant, tenant_ref
from agentos.handlers.parts import Parts
from agentos.handlers.routes import handle
from tests.domain.given import TRACE, moment
from tests.handlers.node import Node, UnevenLog, a_node, caller
from tests.handlers.virtual import virtual_time

LIMIT = 700
EACH = 100


async def reserve(parts: Parts, hold_id: str, amount: int = EACH) -> bool:
    """Ask for tokens; returns whether they were granted."""
    holds = [{"hold_id": hold_id, "amounts": {"tokens": amount}}]
    answer = await send(parts, "quota.reserve", holds=holds)
    refused = answer["refused"]
    if hold_id in refused:
        assert refused[hold_id]["code"] == "quota_exceeded"
    return hold_id not in refused


async def settle(parts: Parts, hold_id: str, amount: int) -> None:
    """Say what a hold came to."""
    await send(parts, "quota.settle", amounts={hold_id: {"tokens": amount} if amount else {}})


async def send(parts: Parts, name: str, **command: Any) -> dict[str, Any]:
    command |= {"traceparent": TRACE, "resource": "models"}
    return await handle(parts, name, {"auth": caller().model_dump(), "command": command})


async def limited(node: Node) -> None:
    """Make the tenant, with a budget of 700 tokens a day."""
    tenant = await node.tenant()
    budget = {"token_budget": {"window": "day", "max_tokens": LIMIT}}
    profile = tenant_profile({"models": budget})
    tenant.fold(await node.log.read(tenant_ref("tnt_a")))
    events = tenant.update(profile, moment(new_id=node.new_id))
    await node.write(tenant.ref, events, tenant.position)


def tenant_profile(quotas: dict[str, Any]) -> Profile:
    return Profile.model_validate({"name": "A", "plan_tier": "demo", "quotas": quotas})


async def most_used(node: Node) -> int:
    """Return the most that was ever counted, over the whole history."""
    ledger, most = Ledger(ledger_ref("tnt_a", "models")), 0
    for record in await node.log.read(ledger.ref):
        for event in read_events(record, Ledger.PAYLOADS):
            ledger.evolve(event)
            if isinstance(event.payload, QuotaReserved):
                most = max(most, ledger.used("day", "tokens", event.time))
    return most


@virtual_time
async def test_sixty_at_once_over_three_processes_never_pass_the_budget() -> None:
    async with a_node(UnevenLog(seed=3)) as node:
        await limited(node)
        processes = [await node.handlers() for _ in range(3)]
        asked = [reserve(processes[n % 3], f"req_{n}") for n in range(60)]
        granted = await asyncio.gather(*asked)
        assert sum(granted) == LIMIT // EACH
        assert await most_used(node) == LIMIT


@virtual_time
async def test_what_is_settled_by_one_process_is_free_in_another() -> None:
    async with a_node(UnevenLog(seed=5)) as node:
        await limited(node)
        here, there = await node.handlers(), await node.handlers()
        assert await reserve(here, "req_1", LIMIT)
        assert not await reserve(there, "req_2")
        await settle(here, "req_1", LIMIT - EACH)
        assert await reserve(there, "req_2")
        assert not await reserve(here, "req_3", 1)


@virtual_time
async def test_an_append_without_an_answer_is_not_counted_twice() -> None:
    log = UnevenLog(seed=7)
    failures = iter(["after", "before"])

    def fail(commit: Commit) -> str | None:
        return next(failures, None) if commit.ref.aggregate_id == "models" else None

    async with a_node(log) as node:
        await limited(node)
        parts = await node.handlers()
        log.fail = fail
        for _ in range(2):
            try:
                await reserve(parts, "req_1")
            except DependencyUnavailableError:
                continue
        assert await reserve(parts, "req_1")
        assert await most_used(node) == EACH


@virtual_time
async def test_what_nobody_settles_stands_at_its_worst_case() -> None:
    async with a_node() as node:
        await limited(node)
        parts = await node.handlers()
        assert await reserve(parts, "req_1", LIMIT)
        await asyncio.sleep(901)
        await parts.ledgers.expire()
        ledger = parts.ledgers.desk("tnt_a", "models").ledger
        assert not ledger.holds
        assert not await reserve(parts, "req_2", 1)


@virtual_time
async def test_what_runs_of_a_disabled_tenant_call_is_held_while_they_drain() -> None:
    async with a_node() as node:
        parts = await node.handlers()
        await limited(node)
        assert await reserve(parts, "req_1", LIMIT - EACH)
        tenant = Tenant(tenant_ref("tnt_a")).fold(await node.log.read(tenant_ref("tnt_a")))
        events = tenant.disable("drain", moment(new_id=node.new_id))
        await node.write(tenant.ref, events, tenant.position)
        await parts.watch.read_on()
        assert await reserve(parts, "req_2")
        assert not await reserve(parts, "req_3")


@virtual_time
async def test_a_tenant_that_is_not_there_holds_nothing() -> None:
    async with a_node() as node:
        parts = await node.handlers()
        with pytest.raises(TenantUnknownError):
            await reserve(parts, "req_1")
