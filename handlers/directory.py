"""Tenants and agents in memory, folded from the log, never refused from stale memory."""

from collections import OrderedDict
from typing import TypeVar

from agentos.domain.agent.agent import Agent, Definition, agent_ref
from agentos.domain.aggregate import Aggregate
from agentos.domain.errors import AgentOSError
from agentos.domain.ports import EventLog
from agentos.domain.subjects import StreamRef
from agentos.domain.tenant.tenant import Tenant, tenant_ref
from agentos.handlers.watch import LogWatch

A = TypeVar("A", bound=Aggregate)
CACHED = 20_000


class Directory:
    """A bounded cache of tenants and agents; what the log has moved past is read on."""

    def __init__(self, log: EventLog, watch: LogWatch) -> None:
        self._log = log
        self._watch = watch
        self._cache: OrderedDict[StreamRef, Aggregate] = OrderedDict()

    async def active_tenant(self, tenant_id: str) -> Tenant:
        """Return the tenant; `TenantUnknownError` or `TenantDisabledError` as the log says."""
        ref = tenant_ref(tenant_id)
        tenant = await self.get(Tenant, ref)
        try:
            tenant.require_active()
        except AgentOSError:
            (await self.reload(Tenant, ref)).require_active()
        return tenant

    async def known_tenant(self, tenant_id: str) -> Tenant:
        """Return the tenant, also a disabled one; `TenantUnknownError` as the log says."""
        ref = tenant_ref(tenant_id)
        tenant = await self.get(Tenant, ref)
        try:
            tenant.require_known()
        except AgentOSError:
            tenant = await self.reload(Tenant, ref)
            tenant.require_known()
        return tenant

    async def runnable(self, tenant_id: str, agent_id: str) -> Definition:
        """Return an agent's current definition, or raise why it takes no runs."""
        ref = agent_ref(tenant_id, agent_id)
        agent = await self.get(Agent, ref)
        try:
            return agent.require_runnable()
        except AgentOSError:
            return (await self.reload(Agent, ref)).require_runnable()

    async def get(self, kind: type[A], ref: StreamRef) -> A:
        """Return the aggregate as fresh as the watch knows."""
        cached = self._cache.get(ref)
        if isinstance(cached, kind) and cached.position >= self._watch.moved.get(ref, 0):
            return cached
        return await self.reload(kind, ref)

    async def reload(self, kind: type[A], ref: StreamRef) -> A:
        """Return the aggregate as the log has it now."""
        cached = self._cache.get(ref)
        aggregate = cached if isinstance(cached, kind) else kind(ref)
        aggregate.fold(await self._log.read(ref, after=aggregate.position))
        if aggregate.position:
            self._cache[ref] = aggregate
            if len(self._cache) > CACHED:
                self._cache.popitem(last=False)
        return aggregate
