"""How far read models are behind the log, looked at whenever somebody asks for the metrics."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from prometheus_client import CollectorRegistry, Gauge

from agentos.domain.errors import AgentOSError

WAIT_S: Final = 1.0
log = logging.getLogger(__name__)


class ProjectionLag:
    """`agentos_projection_lag_events`, absent while PostgreSQL or the log does not answer.

    `positions` gives `(projection, position)`; `head` is the log's last position. A projector
    that died shows here as one that falls behind: it is not asked.
    """

    def __init__(
        self,
        positions: Callable[[], Awaitable[Iterable[tuple[str, int]]]],
        head: Callable[[], Awaitable[int]],
        registry: CollectorRegistry,
    ) -> None:
        self._positions = positions
        self._head = head
        self._gauge = Gauge(
            "agentos_projection_lag_events",
            "Log positions that a read model has not taken in yet",
            ("projection",),
            registry=registry,
        )

    async def refresh(self) -> None:
        """Look, within a second; what cannot be seen is not shown."""
        try:
            async with asyncio.timeout(WAIT_S):
                positions = list(await self._positions())
                head = await self._head()
        except (AgentOSError, TimeoutError) as error:
            log.warning("how far read models are behind is not known: %s", error)
            self._gauge.clear()
            return
        for name, position in positions:
            self._gauge.labels(name).set(max(0, head - position))
