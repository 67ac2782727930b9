"""A remote run's events to this node's client: live from the peer, else from the copy."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final

from starlette.types import Receive, Scope, Send

from agentos.domain.auth import AuthContext
from agentos.domain.envelope import read_line
from agentos.domain.errors import (
    AgentOSError,
    CursorExpiredError,
    DependencyUnavailableError,
    EventsProxyFailedError,
    error_from_wire,
)
from agentos.domain.federation.peer import PeerUnreachableError
from agentos.domain.federation.remote import RemoteRun, checked_line, copied_lines
from agentos.domain.log import Recorded
from agentos.domain.run.events import FINAL_TYPES
from agentos.domain.subjects import StreamRef
from agentos.federation.book import PeerBook
from agentos.federation.credentials import Credentials
from agentos.federation.frames import FrameReader
from agentos.federation.parts import PeerStream, Ports
from agentos.federation.refusals import bounded
from agentos.gateways.http.answers import Answer
from agentos.gateways.http.sse import KEEPALIVE, Stream

FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 2.0
SILENT_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """What of a remote run a client wants to see."""

    ref: StreamRef
    stack_id: str
    after_sequence: int = 0
    types: frozenset[str] | None = None
    deltas: bool = False


class RemoteEvents:
    """The stream of one client: an ASGI application that answers one request.

    Each event is shown once and in order, whether it comes from the peer or from the copy: what
    is not the last sequence + 1 is fetched first.
    """

    def __init__(
        self,
        ports: Ports,
        book: PeerBook,
        credentials: Credentials,
        auth: AuthContext,
        wanted: Wanted,
    ) -> None:
        self._ports = ports
        self._book = book
        self._credentials = credentials
        self._auth = auth
        self._wanted = wanted
        self._seen = wanted.after_sequence
        self._has_ended = False
        self._pause = FIRST_PAUSE_S
        self._silent_s = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve it: 204, 404, 410, 502 as plain answers, else the stream."""
        streams = self._ports.streams
        stream = streams.make(scope, send)
        async with AsyncExitStack() as first:
            upstream = await self._first(first)
            if upstream is None and self._has_ended:
                await Answer(b"", 204)(scope, receive, send)
                return
            async with streams.opened(stream, scope, send):
                if upstream is not None:
                    await self._relay(stream, upstream[1])
                    await first.aclose()
                while not self._has_ended:
                    await self._show_copy(stream)
                    if not self._has_ended:
                        await self._again(stream)

    async def _first(self, held: AsyncExitStack) -> PeerStream | None:
        """Return the peer's stream, `None` when it is not to be had and the copy has to serve.

        Raises what the peer says, and `EventsProxyFailedError` when there is no copy either.
        """
        try:
            upstream = await held.enter_async_context(self._open())
        except PeerUnreachableError as exc:
            await self._require_copy(str(exc))
            return None
        status, _, body = upstream
        if status == 200:
            return upstream
        if status == 204:
            self._has_ended = True
            return None
        error = body.get("error")
        if status in (404, 410) and isinstance(error, dict):
            if await self._has_copy():
                return None
            raise error_from_wire(bounded(error))
        await self._require_copy(f"it answers {status}")
        return None

    async def _has_copy(self) -> bool:
        """Whether the copy has something to show, or has shown all there is.

        Raises `CursorExpiredError` when all that is left is a gap that stays.
        """
        records = await self._ports.log.read(self._wanted.ref)
        remote = RemoteRun(self._wanted.ref).fold(records)
        if copied_lines(records, self._seen):
            return True
        if remote.has_ended and self._seen < remote.copied:
            raise self._expired(remote.copied)
        self._has_ended = remote.has_ended
        return remote.has_ended

    def _expired(self, missing_to: int) -> CursorExpiredError:
        return CursorExpiredError(
            "the peer does not keep these events any more", first_sequence=missing_to + 1
        )

    async def _require_copy(self, why: str) -> None:
        if not await self._has_copy():
            raise EventsProxyFailedError(
                "the peer cannot be asked, and nothing more of the run was copied yet",
                stack_id=self._wanted.stack_id,
                reason=why[:300],
            )

    async def _again(self, stream: Stream) -> None:
        """Ask the peer once more, behind what was shown."""
        await self._wait(stream)
        try:
            async with self._open() as (status, pieces, body):
                if status == 200:
                    self._pause = FIRST_PAUSE_S
                    await self._relay(stream, pieces)
                elif status == 410 and isinstance(error := body.get("error"), dict):
                    await self._show_copy(stream)
                    if not self._has_ended:
                        raise error_from_wire(bounded(error))
        except PeerUnreachableError:
            return

    async def _wait(self, stream: Stream) -> None:
        """Pause, and end with the client: a stream that is over is not held up."""
        pause, self._pause = self._pause, min(self._pause * 2, LONGEST_PAUSE_S)
        await asyncio.sleep(pause)
        self._silent_s += pause
        is_long = self._silent_s >= SILENT_S
        await stream.write(KEEPALIVE if is_long else b"")
        if is_long:
            self._silent_s = 0.0

    async def _relay(self, stream: Stream, pieces: AsyncIterator[bytes]) -> None:
        """Pass on what comes until the run's end, a cut, or a gap that has to be fetched."""
        reader = FrameReader()
        try:
            async for piece in pieces:
                out = bytearray()
                is_whole = all(
                    self._take(out, frame.event, frame.id, frame.data)
                    for frame in reader.feed(piece)
                )
                if out or is_whole:  # a comment finds out that the client left, too
                    await stream.write(bytes(out) or KEEPALIVE)
                if self._has_ended or not is_whole:
                    return
        except PeerUnreachableError:
            return

    def _take(self, out: bytearray, event: str, number: int | None, data: bytes) -> bool:
        """Add one frame to what goes out; false when the peer's stream cannot be gone on with."""
        if event == "agentos.delta":
            if self._wanted.deltas:
                out += b"event: agentos.delta\ndata: %b\n\n" % data
            return True
        if event != "agentos.event" or number is None:
            return event != "agentos.error"
        if number <= self._seen:
            return True
        if number != self._seen + 1:
            return False
        return self._show(out, number, data)

    def _show(self, out: bytearray, number: int, line: bytes) -> bool:
        try:
            inner = checked_line(line, self._wanted.ref.tenant_id, self._wanted.ref.aggregate_id)
        except AgentOSError:
            return False  # a peer that lies: nothing of it is shown
        if inner["sequence"] != number:
            return False
        self._seen = number
        self._has_ended = inner["type"] in FINAL_TYPES
        if self._wanted.types is None or inner["type"] in self._wanted.types:
            out += b"event: agentos.event\nid: %d\ndata: %b\n\n" % (number, line)
        return True

    async def _show_copy(self, stream: Stream) -> None:
        """Show what the backhaul has copied and was not shown yet.

        Raises `CursorExpiredError` before events that are not to be had any more.
        """
        try:
            records = await self._ports.log.read(self._wanted.ref)
        except DependencyUnavailableError:
            return
        out = bytearray()
        missing_to = self._missing_to(records)
        for number, line in copied_lines(records, self._seen):
            if number > self._seen + 1 and not self._has_ended:
                missing_to = number - 1
                break
            if not self._has_ended:
                self._seen = number
                inner = read_line(line)
                self._has_ended = inner["type"] in FINAL_TYPES
                if self._wanted.types is None or inner["type"] in self._wanted.types:
                    out += b"event: agentos.event\nid: %d\ndata: %b\n\n" % (number, line)
        if out:
            await stream.write(bytes(out))
        if missing_to > self._seen and not self._has_ended:
            raise self._expired(missing_to)

    def _missing_to(self, records: Sequence[Recorded]) -> int:
        """Return the last sequence of a copy that ended without the run's end, else 0."""
        remote = RemoteRun(self._wanted.ref).fold(records)
        return remote.copied if remote.has_ended else 0

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[PeerStream]:
        """Open the peer's stream of what was not shown yet; `PeerUnreachableError`."""
        known = self._book.get(self._wanted.stack_id)
        if known is None:
            raise PeerUnreachableError("it is no peer any more")
        deltas = "&deltas=true" if self._wanted.deltas else ""
        run_id = self._wanted.ref.aggregate_id
        url = f"{known.entry.runs_url}/v1/runs/{run_id}/events?after_sequence={self._seen}{deltas}"
        headers = self._credentials.of_caller(known.entry, self._auth, "")
        async with self._ports.peering.client.stream(known.entry, url, headers) as opened:
            yield opened
