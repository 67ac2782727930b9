"""A second tenant of a node, written to its log as a seed is."""

from agentos.domain.agent.agent import Agent, Definition, agent_ref
from agentos.domain.aggregate import Moment
from agentos.domain.auth import SYSTEM_PRINCIPAL
from agentos.domain.envelope import Origin
from agentos.domain.log import make_commit
from agentos.domain.tenant.tenant import Profile, Tenant, tenant_ref
from agentos.infra.clock import SystemClock, SystemIds
from tests.journeys.real_node import RealNode

NO_TRACE = "00-00000000000000000000000000000000-0000000000000000-00"


async def make_tenant(node: RealNode, tenant_id: str, agent_id: str) -> None:
    """Append `tenant.created` and an agent on `builtin/scripted`."""
    new_id = SystemIds()
    at = Moment(SystemClock().now_ms(), new_id, Origin(NO_TRACE, SYSTEM_PRINCIPAL))
    tenant, agent = Tenant(tenant_ref(tenant_id)), Agent(agent_ref(tenant_id, agent_id))
    made = tenant.create(Profile(name=tenant_id, plan_tier="standard"), at)
    registered = agent.register(Definition(name=agent_id, model_ref="builtin/scripted"), at)
    async with node.log() as log:
        await log.append(make_commit(tenant.ref, made, new_id), expected=0)
        await log.append(make_commit(agent.ref, registered, new_id), expected=0)
