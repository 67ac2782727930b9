"""The shapes of the tenants' and keys' answers and bodies."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel

from agentos.domain.ids import FREE_ID_PATTERN
from agentos.domain.key.key import KeyKind
from agentos.domain.retention.rules import Retention
from agentos.domain.tenant.quotas import PlanTier, Quotas
from agentos.domain.tenant.tenant import Entitlements, Metadata, Privacy, Profile
from agentos.gateways.http.bodies import BodyAuth
from agentos.gateways.http.schemas import Shape

TenantId = Annotated[str, Field(pattern=r"^tnt_[A-Za-z0-9_-]{1,100}$")]
FreeId = Annotated[str, Field(pattern=FREE_ID_PATTERN)]
Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    auth: BodyAuth | None = None


class TenantReplace(Profile):
    """The body that replaces a tenant's profile; what is left out has its default."""

    name: str = Field(default="", max_length=256, description="left out: stays as it is")
    tenant_id: TenantId | None = None
    auth: BodyAuth | None = None


class TenantCreate(Profile):
    """The body that makes a tenant; what is left out has its default."""

    name: str = Field(default="", max_length=256, description="left out: the tenant's id")
    tenant_id: TenantId
    auth: BodyAuth | None = None


class TenantCreateWrapped(_Body):
    """The same in its other form."""

    tenant_create: TenantCreate


class TenantCreateBody(RootModel[TenantCreateWrapped | TenantCreate]):
    """Either form of the body that makes a tenant."""


class TenantPatch(_Body):
    """A JSON merge patch: objects go into each other, null brings the default back."""

    tenant_id: TenantId | None = None
    name: str | None = Field(default=None, min_length=1, max_length=256)
    plan_tier: PlanTier | None = None
    default_policy_id: str | None = None
    entitlements: Entitlements | None = None
    quotas: Quotas | None = None
    policy: dict[str, Any] | None = None
    metadata: Metadata | None = None
    retention: Retention | None = None
    privacy: Privacy | None = None


class TenantAct(_Body):
    """The body of enabling; it may be empty."""


class TenantDisable(_Body):
    """What becomes of the runs: they end by themselves, or are canceled."""

    runs: Literal["cancel", "drain"] = "drain"


class SubjectErase(_Body):
    """Whose content is erased: a person's id, or its `sub_…` digest; `confirm` repeats it."""

    subject: FreeId
    confirm: str = Field(default="", max_length=256)
    dry_run: bool = False


class RefoldedShape(Shape):
    """How many rows of a projection held the content; they show its marker from now on."""

    projection: str
    rows: int


class ErasureShape(Shape):
    """What an erasure reached. `done_now` is false where there was nothing (more) to erase."""

    tenant_id: str
    subject_id: str
    key_id: str
    erased: bool
    done_now: bool
    dry_run: bool
    key_destroyed_at: Time | None
    runs: int
    runs_canceled: int
    commits: int
    events: int
    refolded: list[RefoldedShape]


class ErasureAnswer(Shape):
    """An erasure's report."""

    erasure: ErasureShape
    correlation_id: str


class KeyPrincipal(BaseModel):
    """Whom a key identifies."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    principal_id: FreeId
    principal_type: str = "service"
    display_name: str | None = Field(default=None, max_length=256)


class KeyIssue(_Body):
    """The body that makes a key; it may be empty. A principal may be flat or an object."""

    kind: KeyKind = "api"
    name: str | None = Field(default=None, max_length=256)
    principal: KeyPrincipal | None = None
    principal_id: FreeId | None = None
    subject_type: str = "service"
    roles: tuple[str, ...] = Field(default=("tenant_service",), min_length=1, max_length=10)
    scopes: tuple[str, ...] | None = Field(default=None, max_length=100)
    expires_at: Time | None = None


class KeyRotate(_Body):
    """How many seconds the old secret still holds."""

    overlap_seconds: int = Field(default=3600, ge=0, le=30 * 86_400)


class TenantShape(Shape):
    """A tenant; `quotas` are those that hold."""

    tenant_id: str
    name: str
    status: Literal["active", "disabled", "deleted"]
    plan_tier: str
    created_at: Time
    updated_at: Time
    default_policy_id: str
    entitlements: dict[str, Any]
    quotas: dict[str, Any]
    policy: dict[str, Any] | None = None
    metadata: dict[str, Any]
    retention: dict[str, Any] | None = None
    privacy: dict[str, bool] | None = None


class TenantAnswer(Shape):
    """One tenant."""

    tenant: TenantShape
    correlation_id: str


class TenantsAnswer(Shape):
    """A page of tenants, by id."""

    tenants: list[TenantShape]
    next_cursor: str | None = None
    correlation_id: str


class KeyShape(Shape):
    """A key, without its secret."""

    key_id: str
    kind: KeyKind
    status: Literal["active", "revoked"]
    prefix: str
    scopes: list[str]
    roles: list[str]
    principal: dict[str, Any]
    created_at: Time
    expires_at: Time | None = None
    last_used_at: Time | None = None
    name: str | None = None


class KeyAnswer(Shape):
    """One key."""

    key: KeyShape
    correlation_id: str


class KeySecretAnswer(KeyAnswer):
    """A key with its secret, shown this once."""

    secret: str


class KeysAnswer(Shape):
    """A page of a tenant's keys, by id."""

    keys: list[KeyShape]
    next_cursor: str | None = None
    correlation_id: str


class UsageShape(Shape):
    """What was used in one window: by the tenant, or by one of its agents.

    The tenant's own row has what it uses at this moment too.
    """

    model_config = ConfigDict(extra="allow", protected_namespaces=(), populate_by_name=True)

    window: Literal["minute", "hour", "day", "month"]
    from_: Time = Field(alias="from")
    to: Time
    agent_id: str | None = None
    runs: int
    tool_calls: int
    model_calls: int
    errors: int
    blocked: int
    refused: int
    interrupted: int
    input_tokens: int
    output_tokens: int
    cost_usd: float
    runs_active: int | None = None
    runs_limit: int | None = None


class UsageAnswer(Shape):
    """What a tenant used."""

    usage: list[UsageShape]
    correlation_id: str
