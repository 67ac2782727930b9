"""Who has to have read an event before it may go: the read models, and the audit."""

import asyncio
from typing import Any, Final

import orjson

from agentos.domain.audit.chain import chain_ref
from agentos.domain.ports import EventLog, Signals
from agentos.domain.subjects import ALL_HEARTBEATS

HEARD_S: Final = 10.0
READERS: Final = frozenset({"projector", "rebuild"})


class Readers:
    """How far the read models are, as their heartbeats say, and the audit, as its chain says."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._heard: dict[str, tuple[str, float, int]] = {}

    async def listen(self, signals: Signals) -> None:
        """Hear the heartbeats from now on."""
        await signals.subscribe(ALL_HEARTBEATS, self._on_heartbeat)

    def _on_heartbeat(self, subject: str, data: bytes) -> None:
        beat: dict[str, Any] = orjson.loads(data)
        if (service := beat.get("service")) in READERS:
            now = asyncio.get_running_loop().time()
            self._heard[beat["worker_id"]] = (service, now, int(beat["position"]))

    def projected(self) -> int:
        """Return the position up to which every read model is; 0 when no projector is heard."""
        old = asyncio.get_running_loop().time() - HEARD_S
        self._heard = {name: beat for name, beat in self._heard.items() if beat[1] > old}
        beats = self._heard.values()
        if not any(service == "projector" for service, _, _ in beats):
            return 0
        return min(position for _, _, position in beats)

    async def audited(self, tenant_id: str) -> int:
        """Return the position up to which a tenant's causes are in its chain."""
        last = await self._log.last(chain_ref(tenant_id))
        return 0 if last is None else last.base
