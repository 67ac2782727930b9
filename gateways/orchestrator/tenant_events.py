"""All runs' events of a tenant as one stream, in the order of the log."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractContextManager, aclosing
from dataclasses import dataclass
from typing import ClassVar, cast

from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from agentos.domain.errors import CursorExpiredError
from agentos.domain.log import TailBatch
from agentos.domain.retention.retention import gone_of, require_seen, retention_ref
from agentos.gateways.http.call import call_of
from agentos.gateways.http.sse import Item, Stream
from agentos.gateways.http.tail import RUNS, Framed
from agentos.gateways.orchestrator.parts import Parts, parts_of
from agentos.gateways.orchestrator.queries import read_agent_filter, read_position, read_types


@dataclass(frozen=True, slots=True)
class Wanted:
    """What of a tenant's runs a client wants; `after` is a log position and a line in it."""

    tenant_id: str
    after: tuple[int, int] | None
    types: frozenset[str] | None
    agent_id: str | None


async def stream_tenant_events(request: Request) -> "TenantEvents":
    """Stream the events of all runs of the tenant.

    Without `after` and `Last-Event-ID` it begins with what happens from now on.
    """
    wanted = Wanted(
        call_of(request.scope).caller.tenant_id,
        after=read_position(request),
        types=read_types(request),
        agent_id=read_agent_filter(request),
    )
    return TenantEvents(parts_of(request), wanted)


class TenantEvents:
    """The stream of one client: an ASGI application that answers one request."""

    kinds: ClassVar = RUNS

    def __init__(self, parts: Parts, wanted: Wanted) -> None:
        self._parts = parts
        self._wanted = wanted
        self._position, self._line = wanted.after or (0, 0)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve it until the client leaves."""
        streams = self._parts.streams
        await self._require_kept()
        stream = streams.make(scope, send)
        with self._listening(stream) as now:
            async with streams.opened(stream, scope, send):
                if self._wanted.after is None:
                    self._position, self._line = now, 1_000_000_000
                else:
                    await self._catch_up(stream)
                await self._follow(stream)

    def _listening(self, stream: Stream) -> AbstractContextManager[int]:
        return self._parts.tail.listening_to_tenant(self._wanted.tenant_id, stream)

    async def _require_kept(self) -> None:
        """Raise `CursorExpiredError` for a cursor of the log that this one was filled from."""
        if self._wanted.after is None:
            return
        start = await self._parts.log.start()
        if 0 < self._position <= start:
            raise CursorExpiredError("the events asked for are not in this log", first_sequence=1)
        await self._require_seen()

    async def _require_seen(self) -> None:
        """Raise `CursorExpiredError` when retention let go what the cursor has not seen.

        The log says so before anything goes: what was read before this found nothing is whole.
        """
        if self.kinds != RUNS:
            return
        last = await self._parts.log.last(retention_ref(self._wanted.tenant_id))
        require_seen((self._position, self._line), gone_of(last, "runs"))

    async def _follow(self, stream: Stream) -> None:
        while True:
            stream.live = True
            items = await stream.take()
            if stream.has_missed:
                stream.live = stream.has_missed = False
                await self._catch_up(stream)
            if data := self._chunk(items):
                await stream.write(data)

    async def _catch_up(self, stream: Stream) -> None:
        """Read on behind the cursor with a tail of our own, until nothing more waits."""
        async with self._parts.streams.tenants_catching_up:
            batches = self._parts.log.tail(
                after=max(0, self._position - 1), kinds=self.kinds, tenant_id=self._wanted.tenant_id
            )
            async with aclosing(cast("AsyncGenerator[TailBatch]", batches)) as opened:
                async for batch in opened:
                    await self._require_seen()
                    if data := self._chunk([Framed(record) for record in batch.records]):
                        await stream.write(data)
                    if batch.caught_up:
                        return

    def _chunk(self, items: list[Item] | list[Framed]) -> bytes:
        return b"".join([self._frames(item) for item in items if isinstance(item, Framed)])

    def _frames(self, item: Framed) -> bytes:
        """Return what of a commit lies behind the cursor and is wanted; the cursor moves on."""
        position = item.record.position
        if position < self._position:
            return b""
        skipped = self._line if position == self._position else 0
        lines = len(item.record.types)
        if skipped >= lines:
            return b""
        self._position, self._line = position, lines
        return b"".join(self._shown(item, skipped))

    def _shown(self, item: Framed, skipped: int) -> Sequence[bytes]:
        """Return the frames of a commit's lines that are wanted, behind the first `skipped`."""
        wanted = self._wanted
        if wanted.agent_id is not None and item.agent_id != wanted.agent_id:
            return ()
        return [
            frame
            for name, frame in list(zip(item.record.types, item.tenant_frames, strict=True))[
                skipped:
            ]
            if wanted.types is None or name in wanted.types
        ]
