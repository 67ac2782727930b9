"""Aggregates in a gateway's memory, as fresh as one headers-only tail of their kinds says."""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Final, TypeVar, cast

from agentos.domain.aggregate import Aggregate
from agentos.domain.errors import DependencyUnavailableError
from agentos.domain.log import TailBatch
from agentos.domain.ports import EventLog
from agentos.domain.subjects import StreamRef

A = TypeVar("A", bound=Aggregate)
CACHED: Final = 20_000
RETRY_S: Final = 0.2
READ_S: Final = 5.0
log = logging.getLogger(__name__)


class Followed:
    """A bounded cache; what the log has moved past is read on when it is next asked for.

    `on_moved` is told of every aggregate of these kinds that changed.
    """

    def __init__(self, event_log: EventLog, kinds: Sequence[str]) -> None:
        self._log = event_log
        self._kinds = tuple(kinds)
        self._moved: dict[StreamRef, int] = {}
        self._cache: OrderedDict[StreamRef, Aggregate] = OrderedDict()
        self._position: int | None = None
        self.on_moved: list[Callable[[StreamRef], None]] = []

    def peek(self, kind: type[A], ref: StreamRef) -> A | None:
        """Return the aggregate if it is here and fresh; never waits."""
        cached = self._cache.get(ref)
        if (
            self._position is not None
            and isinstance(cached, kind)
            and cached.position >= self._moved.get(ref, 0)
        ):
            return cached
        return None

    async def get(self, kind: type[A], ref: StreamRef) -> A:
        """Return the aggregate; one that the log does not have is at position 0, and kept so.

        Raises `DependencyUnavailableError` when the log cannot be asked.
        """
        return self.peek(kind, ref) or await self.reload(kind, ref)

    async def reload(self, kind: type[A], ref: StreamRef) -> A:
        """Return the aggregate as the log has it now: ask before a refusal that rests on it."""
        cached = self._cache.get(ref)
        after = cached.position if isinstance(cached, kind) else 0
        try:
            async with asyncio.timeout(READ_S):
                records = await self._log.read(ref, after=after)
        except TimeoutError as exc:
            raise DependencyUnavailableError("the log is not reached", dependency="nats") from exc
        # Another reader may have been here meanwhile: what it folded is passed over.
        current = self._cache.get(ref)
        aggregate = current if isinstance(current, kind) else kind(ref)
        if after and aggregate.position < after:
            return await self.reload(kind, ref)
        aggregate.fold(records)
        self._cache[ref] = aggregate
        self._cache.move_to_end(ref)
        if len(self._cache) > CACHED:
            self._cache.popitem(last=False)
        return aggregate

    async def run(self) -> None:
        """Tail the log until cancelled. What cannot be reached is tried again for ever."""
        while True:
            try:
                await self._follow()
            except DependencyUnavailableError as error:
                self._position = None
                log.warning("the cache of %s lost the log: %s", "/".join(self._kinds), error)
            await asyncio.sleep(RETRY_S)

    async def _follow(self) -> None:
        if self._position is None:
            self._cache.clear()
            self._moved.clear()
            self._position = await self._log.head()
        batches = self._log.tail(after=self._position, kinds=self._kinds, headers_only=True)
        async with aclosing(cast("AsyncGenerator[TailBatch]", batches)) as opened:
            async for batch in opened:
                for record in batch.records:
                    self._moved[record.ref] = record.position
                    self._position = record.position
                    for tell in self.on_moved:
                        tell(record.ref)
