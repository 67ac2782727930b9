"""Who has to have read an event before it may go: the read models, and the audit."""

import asyncio
from typing import Any, Final

import orjson

from agentos.domain.audit.chain import chain_ref
from agentos.domain.ports import EventLog, Signals
from agentos.domain.subjects import ALL_HEARTBEATS

HEARD_S: Final = 10.0
PROJECTOR: Final = "projector"
READER: Final = "reader"
"""Whoever reads the log from the beginning: a rebuild, an export, a backup."""


class Readers:
    """How far the read models are, as their heartbeats say, and the audit, as its chain says."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._heard: dict[str, tuple[str, float, int]] = {}
        """By worker: what it is, when it was heard, where it is."""

    async def listen(self, signals: Signals) -> None:
        """Hear the heartbeats from now on."""
        await signals.subscribe(ALL_HEARTBEATS, self._on_heartbeat)

    def _on_heartbeat(self, subject: str, data: bytes) -> None:
        beat: dict[str, Any] = orjson.loads(data)
        if (service := beat.get("service")) in (PROJECTOR, READER):
            now = asyncio.get_running_loop().time()
            self._heard[beat["worker_id"]] = (service, now, int(beat.get("position", 0)))

    def projected(self) -> int:
        """Return the position up to which every read model is; 0 when no projector is heard."""
        return min((at for service, at in self._lately() if service == PROJECTOR), default=0)

    def is_held_off(self) -> bool:
        """Whether somebody reads the log from the beginning: nothing goes meanwhile."""
        return any(service == READER for service, _ in self._lately())

    def _lately(self) -> list[tuple[str, int]]:
        old = asyncio.get_running_loop().time() - HEARD_S
        self._heard = {name: beat for name, beat in self._heard.items() if beat[1] > old}
        return [(service, position) for service, _, position in self._heard.values()]

    async def audited(self, tenant_id: str) -> int:
        """Return the position up to which a tenant's causes are in its chain."""
        last = await self._log.last(chain_ref(tenant_id))
        return 0 if last is None else last.base
