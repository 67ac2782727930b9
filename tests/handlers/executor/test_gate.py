"""Tool calls over a tenant's rate wait for the next minute; entitlements hold at once."""

import asyncio
from collections.abc import Mapping
from typing import Any

from agentos.domain.auth import AuthContext
from agentos.domain.ports import ToolCall
from agentos.domain.tenant.tenant import Profile, Tenant, tenant_ref
from agentos.handlers.executor.gate import ToolGate, allows
from agentos.handlers.parts import Parts
from agentos.handlers.routes import handle
from agentos.infra.memory.bus import MemoryBus
from tests.domain.given import moment
from tests.handlers.node import Node, a_node, caller
from tests.handlers.virtual import virtual_time


async def change(node: Node, **profile: Any) -> None:
    """Give the tenant another profile."""
    tenant = Tenant(tenant_ref("tnt_a")).fold(await node.log.read(tenant_ref("tnt_a")))
    changed = Profile.model_validate({"name": "A", "plan_tier": "demo"} | profile)
    await node.write(
        tenant.ref, tenant.update(changed, moment(new_id=node.new_id)), tenant.position
    )


def gate_to(node: Node, parts: Parts) -> ToolGate:
    """Return an executor's gate whose commands go to a handler process."""

    async def reserve(auth: AuthContext, command: Mapping[str, Any]) -> dict[str, Any]:
        message = {"auth": auth.model_dump(), "command": dict(command)}
        return await handle(parts, "quota.reserve", message)

    return ToolGate(node.log, MemoryBus({"quota.reserve": reserve}), parts.clock)


def call(number: int) -> ToolCall:
    return ToolCall(f"tcall_{number}", "tool.echo", {}, "run_1", 30_000)


@virtual_time
async def test_calls_over_the_rate_wait_for_the_next_minute() -> None:
    async with a_node() as node:
        await node.tenant()
        await change(node, quotas={"tools": {"tool_calls_per_minute": 3}})
        gates = [gate_to(node, await node.handlers()) for _ in range(2)]
        loop, made = asyncio.get_running_loop(), []

        async def make(number: int) -> None:
            await gates[number % 2].admit(caller(), call(number))
            made.append(gates[0]._clock.now_ms() // 60_000)

        began = loop.time()
        await asyncio.gather(*(make(number) for number in range(8)))
        minutes = [made.count(minute) for minute in sorted(set(made))]
        assert max(minutes) <= 3
        assert sum(minutes) == 8
        assert loop.time() - began < 3 * 60


@virtual_time
async def test_without_a_rate_nobody_is_asked() -> None:
    async with a_node() as node:
        await node.tenant()
        gate = ToolGate(node.log, MemoryBus({}), (await node.handlers()).clock)
        await gate.admit(caller(), call(1))


@virtual_time
async def test_a_change_of_entitlements_is_seen_within_a_second() -> None:
    async with a_node() as node:
        await node.tenant()
        gate = ToolGate(node.log, MemoryBus({}), (await node.handlers()).clock)
        assert allows(await gate.tenant("tnt_a"), "tool.echo")
        await change(node, entitlements={"tool_ids_allowed": ["tool.time"]})
        await asyncio.sleep(1.1)
        seen = await gate.tenant("tnt_a")
        assert allows(seen, "tool.time")
        assert not allows(seen, "tool.echo")
