"""A tenant: its status, plan tier and quotas."""

from typing import Any, ClassVar, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from agentos.domain.aggregate import Aggregate, Moment, next_event
from agentos.domain.envelope import Event, Payload, by_type, is_none
from agentos.domain.errors import (
    ConflictError,
    InvalidRequestError,
    TenantDisabledError,
    TenantUnknownError,
)
from agentos.domain.subjects import StreamRef


class RunLimits(BaseModel):
    """How many runs at once, and how many new ones a second; `None` is no limit."""

    model_config = ConfigDict(frozen=True)

    max_concurrent_runs: int | None = Field(default=None, ge=0, exclude_if=is_none)
    run_create_qps: float | None = Field(default=None, gt=0, exclude_if=is_none)
    run_create_burst: int | None = Field(default=None, ge=1, exclude_if=is_none)


PLAN_LIMITS: Final = {
    "standard": RunLimits(max_concurrent_runs=100, run_create_qps=50, run_create_burst=100),
    "premium": RunLimits(max_concurrent_runs=1000, run_create_qps=500, run_create_burst=1000),
    "demo": RunLimits(),
}


class TenantCreated(Payload):
    """The tenant exists; its partition of the log never changes."""

    TYPE: ClassVar = "agentos.tenant.created"
    name: str
    status: Literal["active"] = "active"
    plan_tier: str
    partition: int
    quotas: dict[str, Any] = Field(default_factory=dict)
    metadata: dict[str, Any] = Field(default_factory=dict)


class Tenant(Aggregate):
    """A tenant as its events tell it."""

    KIND: ClassVar = "tenant"
    PAYLOADS: ClassVar = by_type(TenantCreated)

    def __init__(self, ref: StreamRef) -> None:
        super().__init__(ref)
        self.status: str | None = None
        self.name = ""
        self.plan_tier = ""
        self.partition = 0
        self.run_limits = RunLimits()

    def apply(self, event: Event) -> None:
        """Evolve by one event."""
        if isinstance(payload := event.payload, TenantCreated):
            self.status = payload.status
            self.name = payload.name
            self.plan_tier = payload.plan_tier
            self.partition = payload.partition
            plan = PLAN_LIMITS[payload.plan_tier].model_dump()
            self.run_limits = RunLimits.model_validate(plan | payload.quotas.get("runs", {}))

    def require_active(self) -> None:
        """Raise unless the tenant may act."""
        if self.status is None:
            raise TenantUnknownError("the tenant does not exist")
        if self.status != "active":
            raise TenantDisabledError("the tenant is disabled")

    def create(
        self,
        *,
        name: str,
        plan_tier: str,
        quotas: dict[str, Any],
        at: Moment,
    ) -> list[Event]:
        """Decide that the tenant begins; `ConflictError` when it is there already.

        `InvalidRequestError` for a plan tier that does not exist: no fold could read it.
        """
        if self.status is not None:
            raise ConflictError("the tenant exists")
        if plan_tier not in PLAN_LIMITS:
            raise InvalidRequestError("there is no such plan tier", plan_tier=plan_tier)
        RunLimits.model_validate(quotas.get("runs", {}))
        payload = TenantCreated(name=name, plan_tier=plan_tier, partition=0, quotas=quotas)
        return [next_event(self, payload, at)]


def tenant_ref(tenant_id: str) -> StreamRef:
    """Return where a tenant's own events are."""
    return StreamRef(tenant_id, Tenant.KIND, tenant_id)
