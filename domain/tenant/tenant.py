"""A tenant: who it is, what it is entitled to, and whether it may act."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from agentos.domain.aggregate import Aggregate, Moment, next_event
from agentos.domain.envelope import Event, Payload, Readable, by_type, is_none
from agentos.domain.errors import (
    ConflictError,
    InvalidStateTransitionError,
    TenantDisabledError,
    TenantUnknownError,
)
from agentos.domain.retention.rules import Retention
from agentos.domain.subjects import StreamRef
from agentos.domain.tenant.quotas import PlanTier, Quotas, RunLimits, effective
from agentos.domain.times import rfc3339


class Entitlements(BaseModel):
    """Which models and tools the tenant may use at all; `*` is every one that is configured."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())

    model_tiers_allowed: tuple[Literal["fast", "balanced", "premium"], ...] = (
        "fast",
        "balanced",
        "premium",
    )
    model_backends_allowed: tuple[str, ...] = Field(default=("*",), max_length=1000)
    models_allowed: tuple[str, ...] | None = Field(
        default=None, max_length=1000, exclude_if=is_none
    )
    models_denied: tuple[str, ...] | None = Field(default=None, max_length=1000, exclude_if=is_none)
    tool_ids_allowed: tuple[str, ...] = Field(default=("*",), max_length=1000)


class Metadata(BaseModel):
    """What people note about a tenant."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    tags: tuple[str, ...] = Field(default=(), max_length=100)
    billing_account: str | None = Field(default=None, max_length=256)


class Privacy(BaseModel):
    """What is done for a tenant's data subjects (docs/erasure.md).

    `erasure`: the content of runs that begin from now on is sealed with a key of its data
    subject. `record_bodies`: so are the bodies of direct model calls kept, for 30 days.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    erasure: bool = False
    record_bodies: bool = False


def is_default_privacy(value: object) -> bool:
    """Whether nothing is switched on: such profiles are written as they ever were."""
    return value == Privacy()


class Profile(BaseModel):
    """Everything about a tenant that an admin may set."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str = Field(min_length=1, max_length=256)
    plan_tier: PlanTier = "standard"
    default_policy_id: str = Field(default="pol_default", pattern=r"^pol_[A-Za-z0-9_-]{1,100}$")
    entitlements: Entitlements = Entitlements()
    quotas: Quotas = Quotas()
    policy: Annotated[dict[str, Any] | None, Readable] = Field(default=None, exclude_if=is_none)
    metadata: Metadata = Metadata()
    retention: Retention | None = Field(default=None, exclude_if=is_none)
    privacy: Privacy = Field(default=Privacy(), exclude_if=is_default_privacy)


class TenantCreated(Payload):
    """The tenant exists; its partition of the log never changes."""

    TYPE: ClassVar = "agentos.tenant.created"
    status: Literal["active"] = "active"
    partition: int
    profile: Profile


class TenantUpdated(Payload):
    """The tenant's profile is this from now on, as a whole."""

    TYPE: ClassVar = "agentos.tenant.updated"
    profile: Profile


class TenantEnabled(Payload):
    """The tenant may act again."""

    TYPE: ClassVar = "agentos.tenant.enabled"
    status: Literal["active"] = "active"


class TenantDisabled(Payload):
    """The tenant may do nothing; its runs are drained or cancelled."""

    TYPE: ClassVar = "agentos.tenant.disabled"
    status: Literal["disabled"] = "disabled"
    runs: Literal["cancel", "drain"] = "drain"


class TenantDeleted(Payload):
    """The tenant is gone for ever; its id is never given again."""

    TYPE: ClassVar = "agentos.tenant.deleted"
    status: Literal["deleted"] = "deleted"


class Tenant(Aggregate):
    """A tenant as its events tell it."""

    KIND: ClassVar = "tenant"
    PAYLOADS: ClassVar = by_type(
        TenantCreated, TenantUpdated, TenantEnabled, TenantDisabled, TenantDeleted
    )
    profile: Profile

    def __init__(self, ref: StreamRef) -> None:
        super().__init__(ref)
        self.status: str | None = None
        self.partition = 0
        self.created_at = 0
        self.limits = Quotas()
        self.runs: Literal["cancel", "drain"] = "drain"

    @property
    def run_limits(self) -> RunLimits:
        """What holds for the tenant's runs."""
        return self.limits.runs or RunLimits()

    def apply(self, event: Event) -> None:
        """Evolve by one event."""
        payload = event.payload
        if isinstance(payload, TenantCreated):
            self.partition = payload.partition
            self.created_at = event.time
        if isinstance(payload, TenantCreated | TenantUpdated):
            self.profile = payload.profile
            self.limits = effective(payload.profile.plan_tier, payload.profile.quotas)
        if isinstance(payload, TenantDisabled):
            self.runs = payload.runs
        if isinstance(payload, TenantCreated | TenantEnabled | TenantDisabled | TenantDeleted):
            self.status = payload.status

    def require_known(self) -> None:
        """Raise `TenantUnknownError` unless the tenant exists."""
        if self.status is None or self.status == "deleted":
            raise TenantUnknownError("the tenant does not exist")

    def require_active(self) -> None:
        """Raise unless the tenant may act."""
        self.require_known()
        if self.status != "active":
            raise TenantDisabledError("the tenant is disabled")

    def create(self, profile: Profile, at: Moment) -> list[Event]:
        """Decide that the tenant begins; `ConflictError` when its id was ever given."""
        if self.status is not None:
            raise ConflictError("the tenant id is taken")
        return [next_event(self, TenantCreated(partition=0, profile=profile), at)]

    def update(self, profile: Profile, at: Moment) -> list[Event]:
        """Decide another profile; the same again changes nothing."""
        self.require_known()
        if profile == self.profile:
            return []
        return [next_event(self, TenantUpdated(profile=profile), at)]

    def enable(self, at: Moment) -> list[Event]:
        """Decide that the tenant may act; it stands once."""
        self.require_known()
        return [] if self.status == "active" else [next_event(self, TenantEnabled(), at)]

    def disable(self, runs: Literal["cancel", "drain"], at: Moment) -> list[Event]:
        """Decide that the tenant may do nothing; draining may become cancelling later."""
        self.require_known()
        if self.status == "disabled" and runs in (self.runs, "drain"):
            return []
        return [next_event(self, TenantDisabled(runs=runs), at)]

    def delete(self, at: Moment) -> list[Event]:
        """Decide that the tenant is gone; `InvalidStateTransitionError` unless disabled."""
        self.require_known()
        if self.status != "disabled":
            raise InvalidStateTransitionError(
                "only a disabled tenant can be deleted", status=self.status
            )
        return [next_event(self, TenantDeleted(), at)]

    def view(self) -> dict[str, Any]:
        """Return the contract's `Tenant` object; `quotas` are those that hold."""
        return {
            "tenant_id": self.ref.tenant_id,
            "status": self.status,
            "created_at": rfc3339(self.created_at),
            "updated_at": rfc3339(self.time),
            **self.profile.model_dump(mode="json"),
            "quotas": self.limits.model_dump(mode="json"),
        }


def tenant_ref(tenant_id: str) -> StreamRef:
    """Return where a tenant's own events are."""
    return StreamRef(tenant_id, Tenant.KIND, tenant_id)
