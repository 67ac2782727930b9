"""What routing decides about one call: which models are tried, in which order, and how."""

from dataclasses import dataclass

from agentos.domain.models.catalog import (
    BackendEntry,
    ModelEntry,
    Price,
    Retries,
    TargetEntry,
    Tier,
)
from agentos.domain.values import value


@dataclass(frozen=True, slots=True)
class Target:
    """One model that may be tried. `entry` is the catalog's, `server` its backend's.

    `limits` is the route's own word on it, `None` outside a route.
    """

    backend: str
    model: str
    model_id: str
    tier: Tier | None
    price: Price | None
    entry: ModelEntry
    server: BackendEntry
    limits: TargetEntry | None = None

    def micro_usd(self, input_tokens: int, output_tokens: int) -> int:
        """Return what a call costs in millionths of a dollar; 0 without a price."""
        return 0 if self.price is None else self.price.micro_usd(input_tokens, output_tokens)


@value
class Who:
    """Whose call it is. A run's calls stay together, else those of an agent or a principal."""

    tenant_id: str
    principal_id: str
    agent_id: str | None = None
    run_id: str | None = None

    @property
    def sticky(self) -> str:
        """Calls with the same one choose the same weighted target."""
        return self.run_id or f"{self.tenant_id}\0{self.agent_id or self.principal_id}"

    def canary_key(self, by: str) -> str:
        """Return what a canary's share is taken of: the tenant, or its agent (or principal)."""
        if by == "tenant":
            return self.tenant_id
        return f"{self.tenant_id}\0{self.agent_id or self.principal_id}"


@dataclass(frozen=True, slots=True)
class Skipped:
    """A model of the route that this call may not, or cannot, be answered by."""

    model_id: str
    why: str


@dataclass(frozen=True, slots=True)
class ShadowTarget:
    """A model that gets a copy of so many of the calls."""

    target: Target
    percent: float


@dataclass(frozen=True, slots=True)
class Plan:
    """The targets to try, in order. `route` is the route's name, or the model's id."""

    route: str
    catalog_version: int
    targets: tuple[Target, ...]
    retries: Retries
    shadow: tuple[ShadowTarget, ...] = ()
    skipped: tuple[Skipped, ...] = ()
