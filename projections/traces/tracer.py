"""Follows the log and sends the spans it tells of, beside everything else.

Delivered at least once: the position is kept behind what was delivered, and a span that is sent
twice has the same ids. A first start begins at the log's end.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Final, cast

from agentos.domain.errors import DependencyUnavailableError
from agentos.domain.log import Recorded, TailBatch
from agentos.domain.ports import EventLog
from agentos.domain.tracing.span import Span
from agentos.projections.traces.delivery import BATCH, Delivery
from agentos.projections.traces.mapper import KINDS, UNREADABLE, SpanMapper
from agentos.projections.traces.metrics import TracerMetrics
from agentos.projections.traces.places import Places

NAME: Final = "traces"
PACE_S: Final = 0.5
KEEP_EVERY_S: Final = 1.0
AGAIN_S: Final = 1.0
log = logging.getLogger(__name__)


class Tracer:
    """Moves along one partition of the log until it is cancelled."""

    def __init__(
        self,
        event_log: EventLog,
        places: Places,
        delivery: Delivery,
        metrics: TracerMetrics,
        *,
        pace_s: float = PACE_S,
        mapper: SpanMapper | None = None,
    ) -> None:
        self._log = event_log
        self._places = places
        self._delivery = delivery
        self._metrics = metrics
        self._pace_s = pace_s
        self._mapper = mapper or SpanMapper(event_log)
        self._kept = 0
        self._kept_at = float("-inf")
        self.position: int | None = None
        self.caught_up = asyncio.Event()

    async def run(self) -> None:
        """Go on for ever; what cannot be reached is tried again. Keeps its position at the end."""
        try:
            while True:
                try:
                    await self._session()
                except DependencyUnavailableError as error:
                    self.caught_up.clear()
                    log.warning("traces wait for the log: %s", error)
                await asyncio.sleep(AGAIN_S)
        finally:
            await self._keep(now=True)

    async def note_lag(self) -> None:
        """Set how far behind the log this is."""
        behind = 0
        if not self.caught_up.is_set() and self.position is not None:
            behind = max(0, await self._log.head() - self.position)
        self._metrics.lag.set(behind)

    async def _session(self) -> None:
        if self.position is None:
            self.position = await self._begin()
        await self._mapper.load()
        tail = self._log.tail(after=self.position, kinds=KINDS)
        async with aclosing(cast("AsyncGenerator[TailBatch]", tail)) as batches:
            async for batch in batches:
                if batch.records:
                    self.caught_up.clear()
                    await self._take(batch.records)
                if batch.caught_up:
                    self.caught_up.set()
                    await self._keep(now=True)
                    await asyncio.sleep(self._pace_s)  # what ends meanwhile shares a batch

    async def _begin(self) -> int:
        """Return where to go on: where this was, or the end of a log that is not that one."""
        kept, head = await self._places.get(NAME), await self._log.head()
        if kept is not None and kept <= head:
            return kept
        if kept is not None:
            log.warning("the log ends at %d, traces were at %d: it is another log", head, kept)
        await self._places.keep(NAME, head)
        return head

    async def _take(self, records: Sequence[Recorded]) -> None:
        waiting: list[Span] = []
        for record in records:
            waiting += await self._spans_of(record)
            if len(waiting) >= BATCH:
                await self._delivery.deliver(waiting)
                waiting = []
                self.position = record.position
                await self._keep()
        await self._delivery.deliver(waiting)
        self.position = records[-1].position
        await self._keep()

    async def _spans_of(self, record: Recorded) -> list[Span]:
        try:
            return await self._mapper.take(record)
        except UNREADABLE as error:
            log.error("no spans of %s at %d: %s", record.ref, record.position, error)
            self._metrics.dropped("unreadable", 1)
            return []

    async def _keep(self, *, now: bool = False) -> None:
        """Keep the position, at most so often; one that cannot be kept is kept next time."""
        if self.position is None or self.position == self._kept:
            return
        if not now and time.monotonic() - self._kept_at < KEEP_EVERY_S:
            return
        self._kept_at = time.monotonic()
        position = self.position
        try:
            await self._places.keep(NAME, position)
        except DependencyUnavailableError as error:
            log.warning("the position of traces is not kept: %s", error)
        else:
            self._kept = position
