"""Cuts a tail into batches that are worth a transaction."""

import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, NamedTuple

from agentos.domain.log import Recorded, TailBatch
from agentos.domain.ports import EventLog

MOST_RECORDS: Final = 2000
MOST_BYTES: Final = 8 * 1024 * 1024
MOST_WAIT_S: Final = 0.05


class Chunk(NamedTuple):
    """Records to apply together; `caught_up` when nothing more was waiting behind them."""

    records: list[Recorded]
    caught_up: bool


async def chunks(tail: AsyncIterator[TailBatch]) -> AsyncIterator[Chunk]:
    """Join small batches while more is waiting, and cut large ones.

    What was read is handed on at once when the tail has caught up, and within `MOST_WAIT_S`
    of the next batch while it has not.
    """
    kept: list[Recorded] = []
    size, since = 0, time.monotonic()
    async for batch in tail:
        if not kept:
            since = time.monotonic()
        for record in batch.records:
            kept.append(record)
            size += len(record.body)
            if len(kept) >= MOST_RECORDS or size >= MOST_BYTES:
                yield Chunk(kept, False)
                kept, size, since = [], 0, time.monotonic()
        if batch.caught_up or (kept and time.monotonic() - since >= MOST_WAIT_S):
            yield Chunk(kept, batch.caught_up)
            kept, size = [], 0


@asynccontextmanager
async def follow(log: EventLog, after: int) -> AsyncIterator[AsyncIterator[Chunk]]:
    """Tail the log behind `after` in chunks; the tail is closed at the end."""
    tail = log.tail(after=after)
    batches = chunks(tail)
    try:
        yield batches
    finally:
        for generator in (batches, tail):
            if isinstance(generator, AsyncGenerator):
                await generator.aclose()
