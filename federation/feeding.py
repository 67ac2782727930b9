"""Gives each peer that takes them over the brokers the events of its own runs, and no others."""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Final, cast

from agentos.domain.envelope import read_line
from agentos.domain.errors import DependencyUnavailableError
from agentos.domain.federation.link import Given, Outbox
from agentos.domain.log import Recorded, TailBatch
from agentos.domain.run.events import FINAL_TYPES
from agentos.domain.run.run import Run
from agentos.domain.subjects import StreamRef
from agentos.federation.book import PeerBook
from agentos.federation.parts import Ports
from agentos.federation.trust import PeerGate

RETRY_S: Final = 0.5
REMEMBERED: Final = 100_000
LONGEST_LOOK: Final = 100_000
"""How far behind the log's end a start looks for what was not given: it costs its reading."""
log = logging.getLogger(__name__)


class Feeder:
    """Follows the log, and puts each commit of a peer's run into that peer's outbox.

    It begins behind what was given last. What was written before there was an outbox is not
    given: the peer fetches it over HTTP.
    """

    def __init__(self, ports: Ports, book: PeerBook, gate: PeerGate) -> None:
        self._ports = ports
        self._book = book
        self._gate = gate
        self._outboxes = {outbox.stack_id: outbox for outbox in ports.peering.outboxes}
        self._origins: OrderedDict[StreamRef, str | None] = OrderedDict()

    async def run(self) -> None:
        """Feed until cancelled; what cannot be reached is tried again for ever."""
        try:
            while self._outboxes:
                try:
                    await self._feed()
                except DependencyUnavailableError as error:
                    log.warning("peers are not given their events: %s", error)
                await asyncio.sleep(RETRY_S)
            await asyncio.Event().wait()
        finally:
            for outbox in self._outboxes.values():
                await outbox.close()

    async def _feed(self) -> None:
        head = await self._ports.log.head()
        places = {stack: await self._place(box, head) for stack, box in self._outboxes.items()}
        batches = self._ports.log.tail(after=min(places.values()), kinds=(Run.KIND,))
        async with aclosing(cast("AsyncGenerator[TailBatch]", batches)) as opened:
            async for batch in opened:
                found = await self._by_peer(batch.records, places)
                for stack_id, given in found.items():
                    await self._outboxes[stack_id].put(given)

    async def _place(self, outbox: Outbox, head: int) -> int:
        place = await outbox.position()
        if place is None or place > head:
            return head
        if head - place > LONGEST_LOOK:
            log.warning("%s was not given anything for long: HTTP has it", outbox.stack_id)
        return max(place, head - LONGEST_LOOK)

    async def _by_peer(
        self, records: Sequence[Recorded], places: dict[str, int]
    ) -> dict[str, list[Given]]:
        found: dict[str, list[Given]] = {}
        for record in records:
            stack_id = await self._origin(record)
            if not record.readable:
                continue  # its content is gone: the peer is told over HTTP what there is
            if stack_id in self._outboxes and record.position > places[stack_id]:
                known = self._book.get(stack_id)
                if known is not None and known.entry.serves(record.ref.tenant_id):
                    found.setdefault(stack_id, []).append(_given(record))
        return found

    async def _origin(self, record: Recorded) -> str | None:
        """Return the peer that a run came through: its first event says so."""
        ref = record.ref
        if record.first_sequence == 1:
            self._remember(ref, _named(record))
        elif ref not in self._origins:
            self._remember(ref, await self._gate.origin(ref.tenant_id, ref.aggregate_id))
        if FINAL_TYPES.isdisjoint(record.types):
            return self._origins[ref]
        return self._origins.pop(ref)

    def _remember(self, ref: StreamRef, origin: str | None) -> None:
        self._origins[ref] = origin
        if len(self._origins) > REMEMBERED:
            self._origins.popitem(last=False)


def _named(record: Recorded) -> str | None:
    if not record.types or b'"origin_stack_id"' not in record.body:
        return None
    origin = read_line(record.lines()[0])["payload"].get("origin_stack_id")
    return origin if isinstance(origin, str) else None


def _given(record: Recorded) -> Given:
    return Given(record.ref, record.position, record.first_sequence, record.body)
