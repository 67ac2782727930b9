"""Keeps the projections behind the log: one tail, one writer, for as long as it is let.

A restart of PostgreSQL or of the broker is waited out; whatever a restart cannot mend is a
`ProjectionError` and ends it.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Final

from psycopg import InterfaceError, OperationalError

from agentos.domain.errors import DependencyUnavailableError
from agentos.domain.ports import EventLog
from agentos.projections.all import make_projectors
from agentos.projections.chunks import follow
from agentos.projections.errors import LogBehindReadModelError, RebuiltError
from agentos.projections.first_of import first_of
from agentos.projections.projector import Projector
from agentos.projections.schema import LIVE, connect, create_tables
from agentos.projections.writer import Writer

FIRST_PAUSE_S: Final = 0.05
LONGEST_PAUSE_S: Final = 1.0
# Live, a transaction at most this often: a run's commits then mostly share one.
PACE_S: Final = 0.04
WATCH_S: Final = 5.0

logger = logging.getLogger(__name__)


class ProjectionRunner:
    """Moves the projections along one partition of the log until it is cancelled."""

    def __init__(
        self,
        log: EventLog,
        dsn: str,
        *,
        schema: str = LIVE,
        projectors: Callable[[], Sequence[Projector]] = make_projectors,
        pace_s: float = PACE_S,
    ) -> None:
        self._log = log
        self._dsn = dsn
        self._schema = schema
        self._projectors = projectors
        self._pace_s = pace_s
        self._pause_s = FIRST_PAUSE_S
        self.position = 0
        self.caught_up = asyncio.Event()

    async def run(self) -> None:
        """Go on for ever; ends only by cancellation or by a `ProjectionError`."""
        while True:
            try:
                await self._session()
            except RebuiltError:
                logger.info("the tables were rebuilt: going on with the new ones")
                continue
            except (OperationalError, InterfaceError) as exc:
                self._waiting("postgres", exc)
            except DependencyUnavailableError as exc:
                self._waiting(str(exc.details.get("dependency")), exc)
            await asyncio.sleep(self._pause_s)
            self._pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S)

    def _waiting(self, dependency: str, exc: Exception) -> None:
        self.caught_up.clear()
        reason = str(exc).strip()
        logger.warning("%s: %s; again in %.2f s", dependency, reason, self._pause_s)

    async def _session(self) -> None:
        conn = await connect(self._dsn, self._schema, "agentos-projector")
        async with conn:
            projectors = self._projectors()
            await create_tables(conn, self._schema, projectors)
            writer = Writer(conn, projectors)
            await writer.load()
            head = await self._log.head()
            if head < writer.foremost:
                raise LogBehindReadModelError(head, writer.foremost)
            self.position = writer.position
            await first_of(self._follow(writer), self._watch_head())

    async def _watch_head(self) -> None:
        """Look now and then whether the log still is the one that was read.

        A log that was put back from an older backup would give old positions to new events,
        and a tail behind them would wait for ever.
        """
        while True:
            await asyncio.sleep(WATCH_S)
            position = self.position
            try:
                head = await self._log.head()
            except DependencyUnavailableError:
                continue  # the tail is the judge of that
            if head < position:
                raise LogBehindReadModelError(head, position)

    async def _follow(self, writer: Writer) -> None:
        async with follow(self._log, writer.position) as chunks:
            async for chunk in chunks:
                began = time.monotonic()
                if chunk.records:
                    await writer.write(chunk.records)
                    self.position = chunk.records[-1].position
                self._pause_s = FIRST_PAUSE_S
                if not chunk.caught_up:
                    continue
                self.caught_up.set()
                # The tail reads on meanwhile: the next transaction takes what came together.
                await asyncio.sleep(max(0.0, began + self._pace_s - time.monotonic()))
