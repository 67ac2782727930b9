"""Health probes of the backends, in the background."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from agentos.domain.errors import AgentOSError
from agentos.domain.models.breaker import Breaker
from agentos.domain.models.catalog import BackendEntry
from agentos.domain.models.routing import RoutingTable
from agentos.gateways.model_policy.backends import Backends
from agentos.gateways.model_policy.model_metrics import ModelMetrics

PROBE_S: Final = 5.0
LOOK_S: Final = 0.25
log = logging.getLogger(__name__)


class Health:
    """Asks each backend of the catalog for its health at its interval.

    One with an open breaker is asked more often than that lets a call through: while the probe
    fails, no call is spent on it.
    """

    def __init__(
        self,
        table: Callable[[], Awaitable[RoutingTable]],
        backends: Backends,
        breakers_of: Callable[[str], Sequence[Breaker]],
        metrics: ModelMetrics,
        now_ms: Callable[[], int],
    ) -> None:
        self._table, self._backends, self._breakers_of = table, backends, breakers_of
        self._metrics, self._now_ms = metrics, now_ms
        self._probed: dict[str, int] = {}
        self._probing: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Probe until cancelled."""
        try:
            while True:
                await self._look_around()
                await asyncio.sleep(LOOK_S)
        finally:
            probing = list(self._probing.values())
            for task in probing:
                task.cancel()
            await asyncio.gather(*probing, return_exceptions=True)

    async def _look_around(self) -> None:
        try:
            table = await self._table()
        except AgentOSError as error:
            log.warning("no catalog to probe by: %s", error)
            return
        now = self._now_ms()
        current = {entry.name: entry for entry in table.catalog.backends}
        for name in [name for name in self._probed if name not in current]:
            del self._probed[name]
            self._metrics.forget_backend(name)
        for name, entry in current.items():
            last = self._probed.get(name)
            if name in self._probing or (
                last is not None and now < last + self._interval_ms(entry, now)
            ):
                continue
            self._probed[name] = now
            self._probing[name] = asyncio.create_task(self._probe(entry))

    def _interval_ms(self, entry: BackendEntry, now: int) -> int:
        is_open = any(b.state(now) != "closed" for b in self._breakers_of(entry.name))
        return min(entry.probe_ms, entry.breaker.open_ms // 2) if is_open else entry.probe_ms

    async def _probe(self, entry: BackendEntry) -> None:
        up = await self._answers(entry)
        del self._probing[entry.name]
        if entry.name not in self._probed:
            return
        self._metrics.backend_is_up(entry.name, up=up)
        if not up:
            for breaker in self._breakers_of(entry.name):
                breaker.still_down(self._now_ms())

    async def _answers(self, entry: BackendEntry) -> bool:
        try:
            slot = self._backends.hold(entry)
        except AgentOSError as error:
            log.warning("backend %s cannot be made: %s", entry.name, error)
            return False
        try:
            async with asyncio.timeout(PROBE_S):
                await slot.backend.probe()
        except (AgentOSError, TimeoutError):
            return False
        else:
            return True
        finally:
            self._backends.release(slot)
