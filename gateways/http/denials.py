"""Refused requests on their way to the audit: counted here, sent once a second, no secrets."""

import asyncio
import logging
from dataclasses import dataclass
from typing import Any, Final

from agentos.domain.audit.chain import NODE_TENANT
from agentos.domain.auth import AuthContext, system_auth
from agentos.domain.errors import AgentOSError
from agentos.domain.ports import CommandBus
from agentos.gateways.http.call import new_traceparent

log = logging.getLogger(__name__)

EVERY_S: Final = 1.0
KINDS: Final = 1000


@dataclass(frozen=True, slots=True)
class Denial:
    """What like refusals have in common. `tenant_id` and `principal_id` only once verified."""

    resource: str
    reason: str
    source: str
    tenant_id: str | None = None
    principal_id: str | None = None


class Denials:
    """Counts refusals; at most `KINDS` different ones are told apart at a time."""

    def __init__(self, bus: CommandBus, *, every_s: float = EVERY_S) -> None:
        self._bus = bus
        self._every_s = every_s
        self._counts: dict[Denial, int] = {}
        self._rest = 0

    def note(self, resource: str, reason: str, source: str, auth: AuthContext | None) -> None:
        """Count one refusal; never waits."""
        denial = Denial(
            resource[:256],
            reason,
            source[:64],
            None if auth is None else auth.tenant_id,
            None if auth is None else auth.principal.principal_id,
        )
        if denial in self._counts or len(self._counts) < KINDS - 1:
            self._counts[denial] = self._counts.get(denial, 0) + 1
        else:
            self._rest += 1

    async def run(self) -> None:
        """Send what was counted, once a second until cancelled.

        What cannot be delivered is kept and goes with the next second's.
        """
        while True:
            await asyncio.sleep(self._every_s)
            await self.send()

    async def send(self) -> None:
        """Send what was counted so far."""
        counts, rest = self._counts, self._rest
        if not counts:
            return
        self._counts, self._rest = {}, 0
        command = {"traceparent": new_traceparent(), "denials": _wire(counts, rest)}
        try:
            await self._bus.send("audit.denials", system_auth(NODE_TENANT), command)
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


def _wire(counts: dict[Denial, int], rest: int) -> list[dict[str, Any]]:
    entries = [
        {
            "tenant_id": denial.tenant_id,
            "principal_id": denial.principal_id,
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
