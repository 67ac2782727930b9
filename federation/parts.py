"""What the federation door works with, handed in by the app."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from starlette.requests import Request
from starlette.types import ASGIApp

from agentos.domain.federation.link import Inbox, Outbox
from agentos.domain.federation.models import ModelsHere
from agentos.domain.federation.peer import PeerEntry, PeerInfo
from agentos.domain.ports import CommandBus, EventLog, NewId
from agentos.domain.subjects import StreamRef
from agentos.gateways.http.sse import Streams
from agentos.gateways.http.tokens import SigningKeys

DAY_MS: Final = 86_400_000
PeerAnswer = tuple[int, dict[str, Any], Mapping[str, str]]
PeerStream = tuple[int, AsyncIterator[bytes], dict[str, Any]]


class PeerClient(Protocol):
    """Calls peers. Whatever gives no whole answer raises `PeerUnreachableError`."""

    async def call(
        self,
        peer: PeerEntry,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: Mapping[str, Any] | None = None,
        *,
        timeout: float = 15.0,
    ) -> PeerAnswer:
        """Return status, JSON object (`{}` for anything else) and headers of the answer."""
        ...

    def stream(
        self, peer: PeerEntry, url: str, headers: Mapping[str, str]
    ) -> AbstractAsyncContextManager[PeerStream]:
        """Open an event stream: status, its pieces, and the JSON body where it is no stream."""
        ...

    async def close(self) -> None:
        """Let go of all connections."""
        ...


class Signer(Protocol):
    """This node's signing keys."""

    def sign(self, claims: Mapping[str, Any]) -> str:
        """Return a signed token with these claims."""
        ...

    def key_set(self) -> dict[str, Any]:
        """Return the public keys as a JSON Web Key Set."""
        ...


@dataclass(slots=True)
class OpenWork:
    """Forwards without a result and copies that are not whole.

    What was written behind `position` is looked for in the log.
    """

    position: int = 0
    forwards: set[StreamRef] = field(default_factory=set)
    copies: set[StreamRef] = field(default_factory=set)


class CopyFigures(Protocol):
    """What the read model says of forwarded and copied runs."""

    async def open_work(self) -> OpenWork:
        """Return what was open where the read model stands; `DependencyUnavailableError`."""
        ...

    async def by_peer(self) -> Sequence[Mapping[str, Any]]:
        """Return a row for each stack: runs, open runs, events, gaps, what was filled in."""
        ...


def never(name: str) -> None:
    """Pass every crash point: what a node does outside of tests."""


@dataclass(frozen=True, slots=True)
class LocalNode:
    """This node, as it tells its peers. `active_runs` and `models` are asked each time."""

    info: PeerInfo
    models: Callable[[], Awaitable[ModelsHere]]
    max_concurrent_runs: int | None = None
    max_event_streams: int | None = None
    active_runs: Callable[[], int] = lambda: 0


@dataclass(frozen=True, slots=True)
class Retries:
    """How often and how patiently a peer is asked. Times are seconds."""

    attempts: int = 3
    base_s: float = 0.25
    call_s: float = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Peering:
    """The adapters that only federation needs, and what the settings say of it."""

    local: PeerInfo
    client: PeerClient
    signer: Signer
    keys_of: Callable[[PeerEntry], SigningKeys]
    entries: tuple[PeerEntry, ...] = ()
    figures: CopyFigures | None = None
    retries: Retries = Retries()
    is_prod: bool = False
    require_mtls: bool = False
    idempotency_ttl_ms: int = DAY_MS
    max_concurrent_runs: int | None = None
    outboxes: tuple[Outbox, ...] = ()
    inboxes: tuple[Inbox, ...] = ()
    crash_point: Callable[[str], None] = never


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """What the federation door works with.

    `local_events` and its neighbours answer for a run that is executed here after all;
    `on_failure` counts forwards that failed, by the error's code.
    """

    peering: Peering
    local: LocalNode
    bus: CommandBus
    log: EventLog
    streams: Streams
    new_id: NewId
    local_events: Callable[[Request], Awaitable[ASGIApp]]
    local_cancel: Callable[[Request], Awaitable[ASGIApp]]
    local_decide: Callable[[Request], Awaitable[ASGIApp]]
    local_approvals: Callable[[Request], Awaitable[ASGIApp]]
    on_failure: Callable[[str], None] = lambda reason: None
