"""The peers of this node: who they are, whether they answer, what they can do, their load."""

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from pydantic import ValidationError

from agentos.domain.audit.chain import NODE_TENANT
from agentos.domain.auth import AuthContext, system_auth
from agentos.domain.envelope import NO_TRACE
from agentos.domain.errors import AgentOSError
from agentos.domain.federation.peer import (
    LEGACY,
    Capabilities,
    Peer,
    PeerEntry,
    PeerInfo,
    PeerUnreachableError,
    negotiated,
    speaks_ours,
)
from agentos.domain.federation.selection import Candidate, Selector
from agentos.federation.credentials import Credentials
from agentos.federation.local import capabilities_of
from agentos.federation.parts import Ports

POLL_S: Final = 2.0
LONGEST_S: Final = 15.0
ASK_S: Final = 5.0
LOST_AFTER: Final = 2
PATHS: Final = {
    "peer": ("/v1/federation/peer", "/v1/peer/info"),
    "capabilities": ("/v1/federation/peer/capabilities", "/v1/peer/capabilities"),
}
log = logging.getLogger(__name__)
State = Literal["unknown", "live", "lost"]


@dataclass(slots=True)
class Known:
    """What this node knows of a peer at present. Times are epoch seconds."""

    entry: PeerEntry
    is_added: bool = False
    state: State = "unknown"
    capabilities: Capabilities | None = None
    info: PeerInfo | None = None
    last_seen: float | None = None
    reason: str = ""
    failures: int = 0
    sent: int = 0
    noted: State = "unknown"
    back: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def protocol(self) -> str | None:
        """The version that both speak; `None` before it has answered."""
        if self.capabilities is None or not speaks_ours(self.capabilities.protocol):
            return None
        return negotiated(self.capabilities.protocol)

    @property
    def load(self) -> int:
        """Its runs when it last said, and those that were sent there since."""
        return (self.capabilities.active_runs if self.capabilities else 0) + self.sent


class PeerBook:
    """The registry: entries of the file and of the log, each polled on its own."""

    def __init__(self, ports: Ports, credentials: Credentials, *, poll_s: float = POLL_S) -> None:
        self._ports = ports
        self._credentials = credentials
        self._poll_s = poll_s
        self._known = {entry.stack_id: Known(entry) for entry in ports.peering.entries}
        self._polls: dict[str, asyncio.Task[None]] = {}

    def get(self, stack_id: str) -> Known | None:
        """Return what is known of a peer, `None` for a stranger."""
        return self._known.get(stack_id)

    def all(self) -> list[Known]:
        """Return all peers, by their ids."""
        return [self._known[stack_id] for stack_id in sorted(self._known)]

    def add(self, entry: PeerEntry) -> None:
        """Take in a peer that was added at runtime; the file goes before it."""
        known = self._known.get(entry.stack_id)
        if known is not None and not known.is_added:
            return
        self._known[entry.stack_id] = Known(entry, is_added=True)
        self._poll_anew(entry.stack_id)

    def remove(self, stack_id: str) -> None:
        """Forget a peer that was added at runtime."""
        known = self._known.get(stack_id)
        if known is not None and known.is_added:
            del self._known[stack_id]
            if (poll := self._polls.pop(stack_id, None)) is not None:
                poll.cancel()

    async def local(self) -> Candidate:
        """Return this node as a place for a run."""
        local = self._ports.local
        return Candidate(local.info, await capabilities_of(local), local.active_runs())

    def candidates(self, tenant_id: str, selector: Selector) -> list[Candidate]:
        """Return the peers as places for a tenant's run.

        A peer that never said what it can do is taken at the selector's word: the call tells.
        """
        return [
            Candidate(
                known.info or known.entry,
                known.capabilities or _assumed(selector),
                known.load,
                is_live=known.state == "live",
                serves=known.entry.serves(tenant_id) and "runs:forward" in known.entry.rights,
            )
            for known in self._known.values()
        ]

    async def ask_unknown(self, stack_id: str | None) -> None:
        """Ask those who have never answered, before one of them is chosen."""
        asked = [
            known
            for known in self._known.values()
            if known.state == "unknown" and stack_id in (None, known.entry.stack_id)
        ]
        await asyncio.gather(*(self.refresh(known) for known in asked))

    async def ask_lost(self) -> bool:
        """Ask those who were lost, before nobody is chosen; returns whether one is back."""
        lost = [known for known in self._known.values() if known.state == "lost"]
        await asyncio.gather(*(self.refresh(known) for known in lost))
        return any(known.state == "live" for known in lost)

    async def run(self) -> None:
        """Load what was added, then poll everybody until cancelled."""
        while not await self._load():  # noqa: ASYNC110 - the log has no event to wait for
            await asyncio.sleep(self._poll_s)
        for stack_id in self._known:
            self._poll_anew(stack_id)
        try:
            await asyncio.Event().wait()
        finally:
            for poll in self._polls.values():
                poll.cancel()
            await asyncio.gather(*self._polls.values(), return_exceptions=True)

    async def _load(self) -> bool:
        try:
            for record in await self._ports.log.last_of_kind(Peer.KIND, NODE_TENANT):
                peer = Peer(record.ref).fold(await self._ports.log.read(record.ref))
                if peer.entry is not None:
                    self.add(PeerEntry.model_validate(peer.entry))
                if (known := self._known.get(record.ref.aggregate_id)) is not None:
                    known.noted = peer.state
        except AgentOSError:
            return False
        return True

    def _poll_anew(self, stack_id: str) -> None:
        if (old := self._polls.get(stack_id)) is not None:
            old.cancel()
        self._polls[stack_id] = asyncio.create_task(self._poll(stack_id))

    async def _poll(self, stack_id: str) -> None:
        while (known := self._known.get(stack_id)) is not None:
            await self.refresh(known)
            await self._note(known)
            pause = min(self._poll_s * 2 ** max(0, known.failures - 1), LONGEST_S)
            await asyncio.sleep(pause * (0.9 + secrets.randbelow(200) / 1000))

    async def refresh(self, known: Known) -> None:
        """Ask a peer who it is and what it can do; what it answers is checked, not believed."""
        try:
            info = await self._ask(known, "peer")
            if info is not None:
                known.info = PeerInfo.model_validate(info.get("peer"))
                if known.info.stack_id != known.entry.stack_id:
                    raise PeerUnreachableError(f"it answers as {known.info.stack_id}")
            said = await self._ask(known, "capabilities")
            found = Capabilities() if said is None else said.get("capabilities")
            known.capabilities = Capabilities.model_validate(found)
        except (PeerUnreachableError, ValidationError, AgentOSError) as exc:
            self._failed(known, _reason(exc))
            return
        known.sent = known.failures = 0
        known.reason = ""
        known.last_seen = time.time()
        known.state = "live"
        known.back.set()

    async def _ask(self, known: Known, what: str) -> dict[str, Any] | None:
        """Return an answer, `None` from a peer that is too old to have one."""
        for path in PATHS[what]:
            headers = self._credentials.of_node(known.entry, "")
            url = known.entry.federation_url + path
            status, body, _ = await self._ports.peering.client.call(
                known.entry, "GET", url, headers, timeout=ASK_S
            )
            if status == 200:
                return body
            if status != 404:
                raise PeerUnreachableError(f"it answers {status}")
        return None

    def _failed(self, known: Known, reason: str) -> None:
        known.failures += 1
        known.reason = reason
        if known.failures >= LOST_AFTER or known.state == "unknown":
            known.state = "lost"
            known.back.clear()

    async def _note(self, known: Known) -> None:
        """Write a change of state to the log; it is tried again with the next poll."""
        if known.state in ("unknown", known.noted):
            return
        info = known.info or known.entry
        command = {
            "traceparent": NO_TRACE,
            "stack_id": known.entry.stack_id,
            "state": known.state,
            "protocol": known.capabilities.protocol if known.capabilities else LEGACY,
            "build": info.build.version,
            "reason": known.reason[:256],
        }
        with contextlib.suppress(AgentOSError):
            await self._ports.bus.send("peer.note", node_auth(), command)
            known.noted = known.state


def node_auth() -> AuthContext:
    """Return the context of what the node does on its own behalf."""
    return system_auth(NODE_TENANT)


def _assumed(selector: Selector) -> Capabilities:
    names: Iterable[str] = ("runs_forward", *selector.required_capabilities)
    return Capabilities(supports={name.replace(".", "_"): True for name in names})


def _reason(exc: Exception) -> str:
    if isinstance(exc, ValidationError):
        return "what it says of itself does not fit the contract"
    return str(exc) or type(exc).__name__
