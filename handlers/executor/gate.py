"""What a tenant's entitlements, rates and policy say of a tool call."""

import asyncio
from collections import OrderedDict
from typing import Final

from agentos.domain.auth import AuthContext
from agentos.domain.envelope import NO_TRACE
from agentos.domain.errors import QuotaExceededError, error_from_wire
from agentos.domain.policy.compiled import CompiledPolicy
from agentos.domain.policy.names import NameFinder
from agentos.domain.ports import Clock, CommandBus, EventLog, ToolCall
from agentos.domain.tenant.tenant import Tenant, tenant_ref
from agentos.domain.times import to_ms
from agentos.handlers.executor.tool_policy import ToolPolicies

FRESH_S: Final = 1.0
CACHED: Final = 10_000


class ToolGate:
    """Asks the log for the tenant at most once a second, and the ledger only where a rate is."""

    def __init__(
        self, log: EventLog, bus: CommandBus, clock: Clock, finder: NameFinder | None = None
    ) -> None:
        self._log = log
        self._bus = bus
        self._clock = clock
        self._tenants: OrderedDict[str, tuple[float, Tenant]] = OrderedDict()
        self._policies = ToolPolicies(log, finder)

    async def tenant(self, tenant_id: str) -> Tenant:
        """Return the tenant, at most a second old."""
        now = asyncio.get_running_loop().time()
        read_at, tenant = self._tenants.get(tenant_id, (0.0, Tenant(tenant_ref(tenant_id))))
        if tenant.position and now - read_at < FRESH_S:
            return tenant
        tenant.fold(await self._log.read(tenant.ref, after=tenant.position))
        self._tenants[tenant_id] = (now, tenant)
        if len(self._tenants) > CACHED:
            self._tenants.popitem(last=False)
        return tenant

    async def output_policy(self, tenant_id: str) -> CompiledPolicy | None:
        """Return the policy of the tenant's tool outputs, `None` where it has no rule for them."""
        return await self._policies.of(await self.tenant(tenant_id))

    async def admit(self, auth: AuthContext, call: ToolCall) -> None:
        """Return when the call may be made; calls over the rate wait for the next minute."""
        while True:
            limits = (await self.tenant(auth.tenant_id)).limits.tools
            if limits is None or limits.tool_calls_per_minute is None:
                return
            hold = {"hold_id": call.tool_call_id, "amounts": {"calls": 1}}
            command = {"traceparent": NO_TRACE, "resource": "tools", "holds": [hold]}
            refused = (await self._bus.send("quota.reserve", auth, command))["refused"]
            if call.tool_call_id not in refused:
                return
            error = error_from_wire(refused[call.tool_call_id])
            if not isinstance(error, QuotaExceededError):
                raise error
            wait_ms = to_ms(error.details["resets_at"]) - self._clock.now_ms()
            await asyncio.sleep(max(wait_ms, 50) / 1000)


def allows(tenant: Tenant, tool_id: str) -> bool:
    """Whether the tenant is entitled to a tool."""
    allowed = tenant.profile.entitlements.tool_ids_allowed
    return "*" in allowed or tool_id in allowed
