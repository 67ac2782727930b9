"""What has no event on its way to the audit: counted here, sent once a second, no secrets.

Refused requests, checks by policy, reads of provider keys: noted in memory, never waited for.
"""

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from agentos.domain.audit.chain import NODE_TENANT
from agentos.domain.auth import SYSTEM_PRINCIPAL, AuthContext, system_auth
from agentos.domain.errors import AgentOSError
from agentos.domain.ports import CommandBus
from agentos.gateways.http.call import new_traceparent

log = logging.getLogger(__name__)

EVERY_S: Final = 1.0
STOP_S: Final = 2.0
KINDS: Final = 1000
REFUSED: Final = "auth.denied"
"""The action of what was refused before its endpoint."""


@dataclass(frozen=True, slots=True)
class Denial:
    """What like refusals have in common, or like calls that were allowed (`outcome`).

    `tenant_id` and `principal_id` only once verified. `meta` are ids and decisions. The ids of
    the first such call stand for all.
    """

    resource: str
    reason: str
    source: str
    tenant_id: str | None = None
    principal_id: str | None = None
    principal_type: str = "user"
    action: str = REFUSED
    outcome: str = "denied"
    meta: tuple[tuple[str, str], ...] = ()
    correlation_id: str = field(default="", compare=False)
    request_id: str = field(default="", compare=False)


class Denials:
    """Counts what is noted; at most `KINDS` different ones are told apart at a time."""

    def __init__(self, bus: CommandBus, *, every_s: float = EVERY_S) -> None:
        self.bus = bus
        self._every_s = every_s
        self._counts: dict[Denial, int] = {}
        self._rest = 0
        self._in_hand: asyncio.Task[None] | None = None

    def note(
        self,
        resource: str,
        reason: str,
        source: str,
        auth: AuthContext | None,
        meta: tuple[tuple[str, str], ...] = (),
    ) -> None:
        """Count one request that was refused at the gate; never waits."""
        self.count(of_caller(auth, resource=resource, reason=reason, source=source, meta=meta))

    def count(self, denial: Denial) -> None:
        """Count one; never waits."""
        if denial in self._counts or len(self._counts) < KINDS - 1:
            self._counts[denial] = self._counts.get(denial, 0) + 1
        else:
            self._rest += 1

    async def run(self) -> None:
        """Send what was counted, once a second until cancelled, and then what is left.

        What cannot be delivered is kept and goes with the next second's.
        """
        try:
            while True:
                await asyncio.sleep(self._every_s)
                await self.send()
        finally:
            with suppress(TimeoutError):
                async with asyncio.timeout(STOP_S):
                    if self._in_hand is not None:
                        await self._in_hand
                    await self.send()

    async def send(self) -> None:
        """Send what was counted so far; one that is in hand is not broken off with its caller."""
        self._in_hand = asyncio.create_task(self._send())
        await asyncio.shield(self._in_hand)

    async def _send(self) -> None:
        counts, rest = self._counts, self._rest
        if not counts:
            return
        self._counts, self._rest = {}, 0
        command = {"traceparent": new_traceparent(), "denials": _wire(counts, rest)}
        try:
            await self.bus.send("audit.denials", system_auth(NODE_TENANT), command)
        except AgentOSError as error:
            log.warning("denials not delivered yet: %s", error)
            self._keep(counts, rest)

    def _keep(self, counts: dict[Denial, int], rest: int) -> None:
        self._rest += rest
        for denial, count in counts.items():
            if denial in self._counts or len(self._counts) < KINDS - 1:
                self._counts[denial] = self._counts.get(denial, 0) + count
            else:
                self._rest += count


def of_caller(
    auth: AuthContext | None, *, resource: str, reason: str, source: str, **more: Any
) -> Denial:
    """Return what is noted of a call; nothing of it is longer than a record takes."""
    who = None if auth is None else auth.principal
    return Denial(
        resource=resource[:256],
        reason=reason,
        source=source[:64],
        tenant_id=None if auth is None else auth.tenant_id,
        principal_id=None if who is None else who.principal_id,
        principal_type="user" if who is None else who.principal_type,
        **more,
    )


def key_read(backend: str, source: str, outcome: str) -> Denial:
    """Return what is noted of a backend's key that this process read: its name, no more."""
    return Denial(
        resource=backend[:256],
        reason="" if outcome == "allowed" else "unreadable",
        source="",
        tenant_id=NODE_TENANT,
        principal_id=SYSTEM_PRINCIPAL.principal_id,
        principal_type=SYSTEM_PRINCIPAL.principal_type,
        action="secrets.access",
        outcome=outcome,
        meta=(("kind", "provider_key"), ("from", source)),
    )


def _wire(counts: dict[Denial, int], rest: int) -> list[dict[str, Any]]:
    entries = [
        {
            "tenant_id": denial.tenant_id,
            "principal_id": denial.principal_id,
            "principal_type": denial.principal_type,
            "action": denial.action,
            "outcome": denial.outcome,
            "meta": dict(denial.meta),
            "correlation_id": denial.correlation_id,
            "request_id": denial.request_id,
            "resource": denial.resource,
            "reason": denial.reason,
            "source": denial.source,
            "count": count,
        }
        for denial, count in counts.items()
    ]
    if rest:
        entries.append(
            {"resource": "various", "reason": "various", "source": "various", "count": rest}
        )
    return entries
