"""What a node says of itself, what is known of a peer, and a peer as its events tell it."""

from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from agentos.domain.aggregate import Aggregate, Moment, next_event
from agentos.domain.audit.chain import NODE_TENANT
from agentos.domain.envelope import Event, Payload, by_type, is_none
from agentos.domain.errors import NotFoundError
from agentos.domain.subjects import StreamRef

PROTOCOL: Final = "1.0"
LEGACY: Final = "0"
"""The protocol of a peer that answers and says nothing of its capabilities."""

StackId = Annotated[str, Field(pattern=r"^stk_[A-Za-z0-9_-]{1,100}$")]
BaseUrl = Annotated[str, Field(pattern=r"^https?://[^\s/?#]+[^\s?#]*$", max_length=1024)]
Right = Literal["runs:forward", "events:ingest"]
RIGHTS: Final[tuple[Right, ...]] = ("runs:forward", "events:ingest")


class PeerUnreachableError(Exception):
    """A peer gave no whole answer: whether it did what it was asked is not known."""


class Shape(BaseModel):
    """A part of what nodes tell each other: additive, so what is not known is passed over."""

    model_config = ConfigDict(
        frozen=True, extra="ignore", populate_by_name=True, protected_namespaces=()
    )


class Endpoints(Shape):
    """Where a node's doors are."""

    orchestrator: BaseUrl = Field(alias="agent-orchestrator_base_url")
    model_policy: BaseUrl | None = Field(
        default=None, alias="model-policy_base_url", exclude_if=is_none
    )
    federation: BaseUrl | None = Field(
        default=None, alias="federation_base_url", exclude_if=is_none
    )


class Build(Shape):
    """Which program a node runs."""

    version: str = Field(default="unknown", max_length=256)
    git_sha: str = Field(default="unknown", max_length=256)
    timestamp: str = Field(default="unknown", max_length=256)


class PeerInfo(Shape):
    """Who a node is and where."""

    stack_id: StackId
    environment: str = Field(default="local", max_length=256)
    region: str = Field(default="local", max_length=256)
    api_versions: tuple[str, ...] = ("v1",)
    endpoints: Endpoints
    build: Build = Build()

    def view(self) -> dict[str, Any]:
        """Return it in the contract's shape."""
        return self.model_dump(mode="json", by_alias=True, include=set(PeerInfo.model_fields))


class PeerTls(Shape):
    """How a peer's certificate is checked, where the node's own authority is not its signer."""

    ca_cert: str | None = Field(default=None, exclude_if=is_none)


class PeerNats(Shape):
    """How the two nodes' brokers are linked. `leaf_url` is where the peer's takes leaf nodes."""

    leaf_url: Annotated[
        str | None, Field(pattern=r"^(nats|nats-leaf|tls)://[^\s/?#@]+:[0-9]{1,5}$", max_length=256)
    ] = Field(default=None, exclude_if=is_none)
    credentials_file: str = Field(min_length=1, max_length=4096)


class PeerLimits(Shape):
    """What a peer may ask of this node at most; `None` is no limit."""

    runs_per_minute: int | None = Field(default=None, ge=0, exclude_if=is_none)
    events_per_minute: int | None = Field(default=None, ge=0, exclude_if=is_none)
    requests_per_minute: int | None = Field(default=None, ge=0, exclude_if=is_none)


class PeerEntry(PeerInfo):
    """A peer and what it may do here."""

    tls: PeerTls | bool | None = Field(default=None, exclude_if=is_none)
    jwks_url: BaseUrl | None = Field(default=None, exclude_if=is_none)
    tenants: tuple[str, ...] = ("*",)
    rights: tuple[Right, ...] = RIGHTS
    limits: PeerLimits = PeerLimits()
    nats: PeerNats | None = Field(default=None, exclude_if=is_none)

    @property
    def federation_url(self) -> str:
        """Where it is asked about itself; without a federation door, its orchestrator."""
        return (self.endpoints.federation or self.endpoints.orchestrator).rstrip("/")

    @property
    def runs_url(self) -> str:
        """Where its runs are: a door with TLS knows its callers, so it goes before the other."""
        if self.has_tls:
            return self.federation_url
        return self.endpoints.orchestrator.rstrip("/")

    @property
    def has_tls(self) -> bool:
        """Whether the two nodes show each other certificates."""
        return self.federation_url.startswith("https://")

    @property
    def is_keyed(self) -> bool:
        """Whether identities travel as signed tokens rather than as development headers."""
        return self.jwks_url is not None or self.has_tls

    def serves(self, tenant_id: str) -> bool:
        """Whether a tenant may use this peer, and this peer act for the tenant."""
        return "*" in self.tenants or tenant_id in self.tenants


class PeersDocument(Shape):
    """The peers file."""

    local: PeerInfo | None = None
    peers: tuple[PeerEntry, ...] = Field(default=(), max_length=1000)


class Capabilities(Shape):
    """What a node is able to do. The defaults are those of a peer that says nothing."""

    supports: dict[str, bool] = {"runs_forward": True, "events_stream": True}
    limits: dict[str, int | None] = {}
    models: dict[str, Any] = {}
    features: tuple[str, ...] = ()
    protocol: str = LEGACY
    load: dict[str, int] = {}

    def has(self, name: str) -> bool:
        """Whether it has a capability, in either spelling: `runs.forward` or `runs_forward`."""
        plain = name.replace(".", "_")
        if self.supports.get(plain):
            return True
        return any(feature.replace(".", "_") == plain for feature in self.features)

    @property
    def tiers(self) -> tuple[str, ...] | None:
        """The model tiers that it has, `None` when it says nothing of them."""
        found = self.models.get("tiers")
        return tuple(str(tier) for tier in found) if isinstance(found, list | tuple) else None

    @property
    def active_runs(self) -> int:
        """How many runs it said it has at present."""
        return self.load.get("active_runs", 0)


def speaks_ours(protocol: str) -> bool:
    """Whether a peer's protocol is one that we speak: the same major version, or none at all."""
    return protocol == LEGACY or protocol.partition(".")[0] == PROTOCOL.partition(".")[0]


def negotiated(protocol: str) -> str:
    """Return the version that both speak: the lower one."""
    if protocol == LEGACY:
        return LEGACY
    return min(protocol, PROTOCOL, key=_version)


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdigit())


class PeerAdded(Payload):
    """A peer was made known at runtime, or what is known of it has changed."""

    TYPE: ClassVar = "agentos.federation.peer.added"
    stack_id: str
    entry: dict[str, Any]


class PeerRemoved(Payload):
    """A peer that was made known at runtime is none any more."""

    TYPE: ClassVar = "agentos.federation.peer.removed"
    stack_id: str


class PeerSeen(Payload):
    """A peer answers, for the first time or again."""

    TYPE: ClassVar = "agentos.federation.peer.seen"
    stack_id: str
    protocol: str
    build: str


class PeerLost(Payload):
    """A peer has stopped answering."""

    TYPE: ClassVar = "agentos.federation.peer.lost"
    stack_id: str
    reason: str


class Peer(Aggregate):
    """A peer as the log has it: whether it was added here, and whether it last answered."""

    KIND: ClassVar = "peer"
    PAYLOADS: ClassVar = by_type(PeerAdded, PeerRemoved, PeerSeen, PeerLost)

    def __init__(self, ref: StreamRef) -> None:
        super().__init__(ref)
        self.entry: dict[str, Any] | None = None
        self.state: Literal["unknown", "live", "lost"] = "unknown"
        self.since = 0

    def apply(self, event: Event) -> None:
        """Evolve by one event."""
        match event.payload:
            case PeerAdded() as added:
                self.entry = added.entry
            case PeerRemoved():
                self.entry = None
            case PeerSeen():
                self.state, self.since = "live", event.time
            case PeerLost():
                self.state, self.since = "lost", event.time

    def add(self, entry: PeerEntry, at: Moment) -> list[Event]:
        """Make it known; nothing happens when it is known as just this."""
        dumped = entry.model_dump(mode="json", by_alias=True)
        if self.entry == dumped:
            return []
        return [next_event(self, PeerAdded(stack_id=entry.stack_id, entry=dumped), at)]

    def remove(self, at: Moment) -> list[Event]:
        """Forget it; `NotFoundError` when it was not added here."""
        if self.entry is None:
            raise NotFoundError("no such peer was added", stack_id=self.ref.aggregate_id)
        return [next_event(self, PeerRemoved(stack_id=self.ref.aggregate_id), at)]

    def see(self, protocol: str, build: str, at: Moment) -> list[Event]:
        """Note that it answers; once for as long as it goes on to."""
        if self.state == "live":
            return []
        seen = PeerSeen(stack_id=self.ref.aggregate_id, protocol=protocol, build=build)
        return [next_event(self, seen, at)]

    def lose(self, reason: str, at: Moment) -> list[Event]:
        """Note that it answers no more; once until it does again."""
        if self.state == "lost":
            return []
        return [next_event(self, PeerLost(stack_id=self.ref.aggregate_id, reason=reason), at)]


def peer_ref(stack_id: str) -> StreamRef:
    """Return the stream of what this node knows of a peer."""
    return StreamRef(NODE_TENANT, Peer.KIND, stack_id)
