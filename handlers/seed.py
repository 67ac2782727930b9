"""What a demo or dev node begins with: a tenant, its agents; written once, by events."""

from collections.abc import Callable
from functools import partial
from typing import Any, Final

from agentos.domain.agent.agent import Agent, Definition, agent_ref
from agentos.domain.aggregate import Aggregate, Moment
from agentos.domain.auth import SYSTEM_PRINCIPAL
from agentos.domain.envelope import NO_TRACE, Event, Origin
from agentos.domain.errors import AppendConflictError
from agentos.domain.log import make_commit
from agentos.domain.ports import Clock, EventLog, NewId
from agentos.domain.tenant.tenant import Profile, Tenant, tenant_ref

TENANT: Final = "tnt_demo"
DEMO_TOOLS: Final = ("tool.echo", "tool.calculate", "tool.time", "tool.kv.put", "tool.kv.get")
AGENTS: Final = {
    "agt_sample_echo_v1": Definition(
        name="Sample echo", description="Answers with its input.", model_ref="builtin/echo"
    ),
    "agt_demo": Definition(
        name="Demo",
        description="Follows a small script and uses tools.",
        model_ref="builtin/scripted",
        tools=DEMO_TOOLS,
    ),
}


async def seed(log: EventLog, clock: Clock, new_id: NewId) -> dict[str, Any]:
    """Write what is not there yet; returns the ids in the shape of the node's report."""
    at = Moment(clock.now_ms(), new_id, Origin(NO_TRACE, SYSTEM_PRINCIPAL))
    tenant = Tenant(tenant_ref(TENANT))
    await _ensure(
        log,
        new_id,
        tenant,
        partial(tenant.create, Profile(name="Demo", plan_tier="demo"), at),
    )
    for agent_id, definition in AGENTS.items():
        agent = Agent(agent_ref(TENANT, agent_id))
        await _ensure(log, new_id, agent, partial(agent.register, definition, at))
    return {
        "default_tenant_id": TENANT,
        "platform_admin_principal_id": "usr_platform_admin",
        "tenant_admin_principal_id": "usr_tnt_demo_admin",
        "sample_agent_ids": list(AGENTS),
        "sample_tool_ids": list(DEMO_TOOLS),
    }


async def _ensure(
    log: EventLog, new_id: NewId, aggregate: Aggregate, begin: Callable[[], list[Event]]
) -> None:
    if await log.last(aggregate.ref) is not None:
        return
    try:
        await log.append(make_commit(aggregate.ref, begin(), new_id), expected=0)
    except AppendConflictError:
        return
