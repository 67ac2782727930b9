"""Gets spans to a collector: patient with one that is away, done with what it refuses."""

import asyncio
import logging
import random
from collections.abc import Sequence
from typing import Final

from agentos.domain.ports import Clock
from agentos.domain.tracing.span import Span, SpanSink
from agentos.projections.traces.metrics import TracerMetrics

BATCH: Final = 512
MAX_AGE_MS: Final = 3_600_000
FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 30.0
LONGEST_WAIT_S: Final = 300.0
log = logging.getLogger(__name__)


class Delivery:
    """Sends batches, one after the other, and drops only what nobody will take or look at.

    The log holds what waits, so nothing piles up here. Spans that ended longer than
    `max_age_ms` ago are dropped: a collector that comes back after days is not flooded.
    """

    def __init__(
        self,
        sink: SpanSink,
        clock: Clock,
        metrics: TracerMetrics,
        *,
        batch: int = BATCH,
        max_age_ms: int = MAX_AGE_MS,
        pause_s: float = FIRST_PAUSE_S,
    ) -> None:
        self._sink = sink
        self._clock = clock
        self._metrics = metrics
        self._batch = batch
        self._max_age_ms = max_age_ms
        self._first_pause_s = pause_s
        self._is_up = True
        self._metrics.collector_up.set(1)

    async def deliver(self, spans: Sequence[Span]) -> None:
        """Send spans; returns once each was taken or dropped."""
        for start in range(0, len(spans), self._batch):
            await self._deliver(spans[start : start + self._batch])

    async def _deliver(self, spans: Sequence[Span]) -> None:
        pause = self._first_pause_s
        while spans := self._young(spans):
            sent = await self._sink.send(spans)
            if sent.outcome == "sent":
                self._metrics.sent.inc(len(spans) - sent.rejected)
                self._metrics.dropped("rejected", sent.rejected)
                self._came_back()
                return
            if sent.outcome == "refused":
                log.error("the collector refused %d spans: %s", len(spans), sent.reason)
                self._metrics.dropped("refused", len(spans))
                self._came_back()
                return
            self._went_away(sent.reason)
            jitter = random.uniform(0.5, 1.5)  # noqa: S311 - jitter
            await asyncio.sleep(max(pause * jitter, min(sent.wait_s, LONGEST_WAIT_S)))
            pause = min(pause * 2, LONGEST_PAUSE_S)

    def _young(self, spans: Sequence[Span]) -> Sequence[Span]:
        oldest = self._clock.now_ms() - self._max_age_ms
        young = [span for span in spans if span.end_ms >= oldest]
        self._metrics.dropped("too_old", len(spans) - len(young))
        return young

    def _went_away(self, reason: str) -> None:
        if self._is_up:
            log.warning("the collector does not take spans: %s; they wait in the log", reason)
        self._is_up = False
        self._metrics.collector_up.set(0)

    def _came_back(self) -> None:
        if not self._is_up:
            log.info("the collector takes spans again")
        self._is_up = True
        self._metrics.collector_up.set(1)
