"""The catalog: which backends and models a node knows, at what price, and the routes to them.

One document, a whole at a time: it is read from a file or sent by an admin, and stands in the
log with a version. It holds no secret, only the name of the file that a key is in.
"""

from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from agentos.domain.envelope import is_none

BackendKind = Literal["builtin", "openai", "anthropic", "google", "aws-bedrock", "local"]
Operation = Literal["chat", "embed"]
Tier = Literal["fast", "balanced", "premium"]
TIERS: Final[tuple[Tier, ...]] = ("fast", "balanced", "premium")
OPERATIONS: Final[tuple[Operation, ...]] = ("chat", "embed")
BACKEND_NAME_PATTERN: Final = r"^[a-z0-9-]{1,40}$"
MODEL_ID_PATTERN: Final = r"^[a-z0-9-]{1,40}/[^\x00-\x20\x7f-\x9f]{1,200}$"
ROUTE_NAME_PATTERN: Final = r"^(tier:(fast|balanced|premium)|[A-Za-z0-9][A-Za-z0-9._-]{0,99})$"
MICRO: Final = 1_000_000

ModelId = Annotated[str, Field(pattern=MODEL_ID_PATTERN)]
Milliseconds = Annotated[int, Field(ge=1, le=3_600_000)]
Percent = Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)]
Usd = Annotated[float, Field(ge=0, le=1_000_000, allow_inf_nan=False)]


class Part(BaseModel):
    """What all parts of the document share; how strictly fields are known is the reader's."""

    model_config = ConfigDict(frozen=True, protected_namespaces=())


class Timeouts(Part):
    """How long a backend may take: to connect, between two pieces, and for a whole call."""

    connect_ms: Milliseconds = 5_000
    idle_ms: Milliseconds = 60_000
    total_ms: Milliseconds = 600_000


class BreakerRule(Part):
    """`failures` within `window_ms` open a model's breaker; `open_ms` later one call may try."""

    failures: int = Field(default=5, ge=1, le=10_000)
    window_ms: Milliseconds = 30_000
    open_ms: Milliseconds = 10_000


class BackendEntry(Part):
    """A server that has models. `api_key_file` names where its key is, never the key itself.

    `any_model` lets every model name through to it, also one that the catalog does not list.
    `probe_ms` is how often its health is asked for.
    """

    name: str = Field(pattern=BACKEND_NAME_PATTERN)
    kind: BackendKind
    base_url: str | None = Field(default=None, max_length=2048, exclude_if=is_none)
    api_key_file: str | None = Field(
        default=None, min_length=1, max_length=4096, exclude_if=is_none
    )
    region: str | None = Field(default=None, min_length=1, max_length=64, exclude_if=is_none)
    headers: dict[str, str] = Field(default={}, max_length=32)
    any_model: bool = False
    timeouts: Timeouts = Timeouts()
    max_concurrency: int | None = Field(default=None, ge=1, le=100_000, exclude_if=is_none)
    breaker: BreakerRule = BreakerRule()
    probe_ms: int = Field(default=15_000, ge=1_000, le=3_600_000)


class Price(Part):
    """What a million tokens cost, in US dollars."""

    input_per_million: Usd
    output_per_million: Usd

    def micro_usd(self, input_tokens: int, output_tokens: int) -> int:
        """Return the cost in millionths of a dollar, rounded up once, exact to the document."""
        fine = round(self.input_per_million * MICRO) * input_tokens
        fine += round(self.output_per_million * MICRO) * output_tokens
        return -(-fine // MICRO)


class ModelEntry(Part):
    """One model, `<backend>/<model>`. Without a price it costs nothing and fits no cost limit.

    Its `tier` is what a tenant must be entitled to; a model without one is in every tier.
    """

    model_id: ModelId
    provider: str | None = Field(default=None, min_length=1, max_length=64, exclude_if=is_none)
    capabilities: tuple[Operation, ...] = Field(default=("chat",), min_length=1, max_length=2)
    tier: Tier | None = Field(default=None, exclude_if=is_none)
    context_window_tokens: int | None = Field(default=None, ge=1, le=10**9, exclude_if=is_none)
    max_output_tokens: int | None = Field(default=None, ge=1, le=10**9, exclude_if=is_none)
    price: Price | None = Field(default=None, exclude_if=is_none)

    @property
    def backend(self) -> str:
        """The name of the backend that has it."""
        return self.model_id.partition("/")[0]

    @property
    def name(self) -> str:
        """The model's bare name, as the backend knows it."""
        return self.model_id.partition("/")[2]


class Canary(Part):
    """A share of all tenants, or of all agents, that gets a target first; always the same ones."""

    percent: Percent
    by: Literal["tenant", "agent"] = "tenant"


class TargetEntry(Part):
    """A model in a step. A canary's weight does not count; limits take it out of a plan."""

    model_id: ModelId
    weight: int = Field(default=1, ge=1, le=10_000)
    canary: Canary | None = Field(default=None, exclude_if=is_none)
    max_latency_ms: Milliseconds | None = Field(default=None, exclude_if=is_none)
    max_cost_usd: Usd | None = Field(default=None, exclude_if=is_none)


class Step(Part):
    """Targets among which canaries and weights choose; the others follow when that one fails."""

    targets: tuple[TargetEntry, ...] = Field(min_length=1, max_length=50)


class Retries(Part):
    """How often each target is tried, and how long the first pause is (it doubles, jittered)."""

    attempts: int = Field(default=2, ge=1, le=10)
    base_backoff_ms: int = Field(default=200, ge=0, le=60_000)


class Shadow(Part):
    """A model that gets a copy of so many calls; its answers are only counted."""

    model_id: ModelId
    percent: Percent


class RouteEntry(Part):
    """A name that clients use as `model` (`tier:fast`, or an alias), and where it leads."""

    name: str = Field(pattern=ROUTE_NAME_PATTERN)
    operation: Operation = "chat"
    chain: tuple[Step, ...] = Field(min_length=1, max_length=20)
    retries: Retries = Retries()
    shadow: tuple[Shadow, ...] = Field(default=(), max_length=5)


class Catalog(Part):
    """The whole document; `catalog_rules.parse_catalog` reads one from outside."""

    backends: tuple[BackendEntry, ...] = Field(default=(), max_length=200)
    models: tuple[ModelEntry, ...] = Field(default=(), max_length=5_000)
    routes: tuple[RouteEntry, ...] = Field(default=(), max_length=1_000)
