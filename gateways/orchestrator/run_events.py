"""A run's events as a stream: the past from the log, then live, no gap and no repeat."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from agentos.domain.errors import CursorExpiredError, InternalError, NotFoundError
from agentos.domain.log import Recorded
from agentos.domain.run.events import FINAL_TYPES
from agentos.domain.run.run import run_ref
from agentos.domain.subjects import StreamRef, delta
from agentos.gateways.http.answers import Answer
from agentos.gateways.http.call import call_of
from agentos.gateways.http.sse import Item, Stream
from agentos.gateways.http.tail import Framed
from agentos.gateways.orchestrator.parts import Parts, parts_of
from agentos.gateways.orchestrator.queries import DELTAS, RUN_ID, read_sequence, read_types
from agentos.gateways.orchestrator.reading import events_gone, purged_run
from agentos.gateways.orchestrator.runs import send_create

CHUNK_BYTES = 64 * 1024
Otherwise = Callable[[], Awaitable[ASGIApp]]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What of a run a client wants to see. `position` is behind which the log is first read."""

    ref: StreamRef
    after_sequence: int = 0
    types: frozenset[str] | None = None
    deltas: bool = False
    position: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)


async def stream_run_events(request: Request) -> "RunEvents":
    """Stream a run's events: past ones first, then live, until its final event.

    Those of a run that a peer executes come from there.
    """
    elsewhere = parts_of(request).elsewhere
    if elsewhere is None:
        return stream_own_events(request)
    return stream_own_events(request, lambda: elsewhere.events(request))


def stream_own_events(request: Request, otherwise: Otherwise | None = None) -> "RunEvents":
    """Stream the events of a run of this node; `otherwise` answers for what is none."""
    run_id = RUN_ID.read(request)
    wanted = Wanted(
        run_ref(call_of(request.scope).caller.tenant_id, run_id),
        after_sequence=read_sequence(request),
        types=read_types(request),
        deltas=DELTAS.read(request),
    )
    return RunEvents(parts_of(request), wanted, otherwise)


async def create_and_stream_run(request: Request) -> "RunEvents":
    """Start a run and stream its events with deltas.

    What goes wrong before the first event is answered as JSON. A repeated idempotency key
    streams the run that is there, from its beginning.
    """
    call = call_of(request.scope)
    answer = await send_create(request, call)
    run = answer["run"]
    run_id: str = run["run_id"]
    wanted = Wanted(
        run_ref(run["tenant_id"], run_id),
        deltas=True,
        # A run that is new begins at this position: nothing before it has to be looked for.
        position=0 if answer["existing"] else int(answer["position"]) - 1,
        headers={"x-run-id": run_id, "location": f"/v1/runs/{run_id}"},
    )
    return RunEvents(parts_of(request), wanted)


class RunEvents:
    """The stream of one client: an ASGI application that answers one request."""

    def __init__(self, parts: Parts, wanted: Wanted, otherwise: Otherwise | None = None) -> None:
        self._parts = parts
        self._otherwise = otherwise
        self._wanted = wanted
        self._position = wanted.position
        self._seen = 0
        self._has_ended = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve it: 404, 204, 410 as plain answers, else the stream."""
        if not await self._serve(scope, receive, send):
            if self._otherwise is None:
                raise NotFoundError("no such run")
            await (await self._otherwise())(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> bool:
        """Serve a run of this node; false when there is none."""
        streams, wanted = self._parts.streams, self._wanted
        stream = streams.make(scope, send)
        with self._parts.tail.listening_to(wanted.ref, stream):
            past = await self._read()
            if not any(record.types for record in past):
                if (is_over := await self._is_purged()) is None:
                    return False
            else:
                is_over = self._is_over(past)
            if is_over:
                await Answer(b"", 204)(scope, receive, send)
                return True
            async with (
                streams.opened(stream, scope, send, wanted.headers),
                self._deltas(stream),
            ):
                await self._show(stream, past)
                await self._follow(stream)
            return True

    async def _read(self) -> list[Recorded]:
        async with self._parts.streams.catching_up:
            return await self._parts.log.read(self._wanted.ref, after=self._position)

    async def _is_purged(self) -> bool | None:
        """Whether the run was let go and nothing of it is left to show; `None`: there is none.

        Raises `CursorExpiredError` when something went that was not shown.
        """
        purged = await purged_run(self._parts, self._wanted.ref)
        if purged is None:
            return None
        if max(self._seen, self._wanted.after_sequence) < purged.sequence:
            raise events_gone(purged)
        return True

    def _is_over(self, past: list[Recorded]) -> bool:
        """Whether nothing is left to show; `CursorExpiredError` when the beginning is gone."""
        first = next(record.first_sequence for record in past if record.types)
        if first > self._wanted.after_sequence + 1:
            raise CursorExpiredError("these events are not kept any more", first_sequence=first)
        self._seen = first - 1
        last = past[-1]
        is_final = not FINAL_TYPES.isdisjoint(last.types)
        return is_final and self._wanted.after_sequence >= last.last_sequence

    @asynccontextmanager
    async def _deltas(self, stream: Stream) -> AsyncIterator[None]:
        if not self._wanted.deltas:
            yield
            return
        ref = self._wanted.ref
        stop = await self._parts.signals.subscribe(
            delta(ref.tenant_id, ref.aggregate_id), lambda _subject, data: stream.offer_delta(data)
        )
        try:
            yield
        finally:
            await stop()

    async def _follow(self, stream: Stream) -> None:
        """Show what comes, reading the log again wherever a sequence is missing."""
        while not self._has_ended:
            stream.live = True
            items = await stream.take()
            if stream.has_missed or self._is_behind(items):
                stream.live = stream.has_missed = False
                if not (records := await self._read()):
                    await self._require_kept()
                await self._show(stream, records)
                if self._is_behind(items):
                    raise InternalError("the log has a gap; resume behind the last id")
            if data := self._chunk(items):
                await stream.write(data)

    async def _require_kept(self) -> None:
        """Raise `CursorExpiredError` when the run was let go before all of it was shown."""
        if await self._parts.log.last(self._wanted.ref) is None:
            await self._is_purged()

    def _is_behind(self, items: list[Item]) -> bool:
        expected = self._seen + 1
        for item in items:
            if isinstance(item, Framed):
                if item.record.first_sequence > expected:
                    return True
                expected = max(expected, item.record.last_sequence + 1)
        return False

    async def _show(self, stream: Stream, records: list[Recorded]) -> None:
        """Write records in pieces, at the client's pace."""
        waiting: list[Item] = []
        size = 0
        for record in records:
            framed = Framed(record)
            waiting.append(framed)
            size += framed.size
            if size >= CHUNK_BYTES:
                await self._write(stream, waiting)
                waiting, size = [], 0
        await self._write(stream, waiting)

    async def _write(self, stream: Stream, items: list[Item]) -> None:
        if data := self._chunk(items):
            await stream.write(data)

    def _chunk(self, items: list[Item]) -> bytes:
        if len(items) == 1:
            return self._frames(items[0])
        return b"".join([self._frames(item) for item in items])

    def _frames(self, item: Item) -> bytes:
        """Return what of a commit was not shown yet; behind the final event there is nothing."""
        if isinstance(item, bytes):
            return b"" if self._has_ended else item
        record = item.record
        if record.last_sequence <= self._seen or record.is_void:
            return b""
        shown = max(self._seen, self._wanted.after_sequence)
        self._seen = record.last_sequence
        self._position = max(self._position, record.position)
        self._has_ended = not FINAL_TYPES.isdisjoint(record.types)
        types = self._wanted.types
        if types is None and record.first_sequence > shown:
            return item.run_chunk
        first = record.first_sequence
        return b"".join(
            frame
            for at, (name, frame) in enumerate(zip(record.types, item.run_frames, strict=True))
            if first + at > shown and (types is None or name in types)
        )
