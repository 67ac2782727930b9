"""The backhaul: every event of a forwarded run, into this node's own log, byte for byte."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from agentos.domain.auth import AuthContext, system_auth
from agentos.domain.envelope import NO_TRACE, read_line
from agentos.domain.errors import (
    AgentOSError,
    ConflictError,
    DependencyUnavailableError,
    NotFoundError,
    TimedOutError,
)
from agentos.domain.federation.forward import Forward, forward_ref
from agentos.domain.federation.ingest import ingest_ref
from agentos.domain.federation.peer import PeerUnreachableError
from agentos.domain.federation.remote import RemoteEnded, RemoteRun
from agentos.domain.log import Recorded
from agentos.domain.run.events import FINAL_TYPES
from agentos.domain.run.run import FINAL
from agentos.domain.subjects import StreamRef
from agentos.federation.book import PeerBook
from agentos.federation.credentials import Credentials
from agentos.federation.forwarding import caller_of
from agentos.federation.frames import frames
from agentos.federation.links import Link
from agentos.federation.parts import Ports
from agentos.federation.progress import LONGEST_PAUSE_S, Box, Progress, worth

FLUSH_S: Final = 0.05
REFUSED_PAUSE_S: Final = 30.0
STREAMS: Final = 1_000
SKIPPED_S: Final = 1.0
QUIET_S: Final = 30.0
LOOK_S: Final = 2.0
FINAL_NAMES: Final = tuple(name.encode() for name in FINAL_TYPES)
AWAY: Final = (DependencyUnavailableError, TimedOutError)
log = logging.getLogger(__name__)


class ConflictOfCopyError(Exception):
    """What the peer sent is not what must come next."""

    def __init__(self, error: ConflictError) -> None:
        super().__init__(error.message)
        self.gap_to: int | None = error.details.get("last")


class Backhaul:
    """One task for each remote run whose copy is not whole."""

    def __init__(
        self,
        ports: Ports,
        book: PeerBook,
        credentials: Credentials,
        links: Mapping[str, Link] = MappingProxyType({}),
    ) -> None:
        self._ports = ports
        self._links = links
        self._book = book
        self._credentials = credentials
        self._tasks: dict[StreamRef, asyncio.Task[None]] = {}
        self._streams = asyncio.Semaphore(STREAMS)

    def follow(self, ref: StreamRef, stack_id: str = "") -> None:
        """Copy a remote run from now on, unless that is being done; the log knows its stack."""
        if ref in self._tasks:
            return
        task = self._tasks[ref] = asyncio.create_task(self._copy(ref, stack_id))
        task.add_done_callback(lambda done: self._ended(ref, done))

    def __len__(self) -> int:
        return len(self._tasks)

    def task(self, ref: StreamRef) -> "asyncio.Task[None] | None":
        """Return the task that copies a run, as long as its copy is not whole."""
        return self._tasks.get(ref)

    async def has_ended(self, ref: StreamRef) -> bool:
        """Whether the copy of a run is whole; `NotFoundError` when there is none."""
        last = await self._ports.log.last(ref)
        if last is None:
            raise NotFoundError("no such remote run")
        return last.types[-1] == RemoteEnded.TYPE

    def _ended(self, ref: StreamRef, done: "asyncio.Task[None]") -> None:
        self._tasks.pop(ref, None)
        if not done.cancelled() and (error := done.exception()) is not None:
            log.error("the copy of %s broke off", ref.aggregate_id, exc_info=error)

    async def run(self) -> None:
        """Copy until cancelled."""
        try:
            await asyncio.Event().wait()
        finally:
            tasks = list(self._tasks.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _copy(self, ref: StreamRef, stack_id: str) -> None:
        """Copy one run to its end, whatever is down meanwhile."""
        progress = Progress(ref, stack_id)
        while not progress.has_ended:
            try:
                remote = RemoteRun(ref).fold(await self._ports.log.read(ref))
                progress.at(remote)
                link = self._links.get(progress.stack_id)
                if not progress.has_ended and link is not None and link.is_live:
                    if await self._by_link(progress, link):
                        await self._look(progress, remote)
                    continue
                if not progress.has_ended:
                    async with self._streams:
                        await self._follow(progress, remote)
            except (PeerUnreachableError, *AWAY) as exc:
                progress.cut(str(exc))
                await self._fill_from_pushes(progress)
            except ConflictOfCopyError as exc:
                log.warning("%s from %s: %s", ref.aggregate_id, progress.stack_id, exc)
                await self._note_gap(progress, exc.gap_to)
            except NotFoundError:
                raise  # it was never begun: there is nothing to continue
            except AgentOSError as exc:
                log.warning("%s was not copied on: %s", ref.aggregate_id, exc)
                progress.cut(str(exc))
                progress.pause = REFUSED_PAUSE_S
            if not progress.has_ended:
                await self._pause(progress)

    async def _pause(self, progress: "Progress") -> None:
        known = self._book.get(progress.stack_id)
        pause = progress.next_pause()
        if known is None or known.back.is_set():
            await asyncio.sleep(pause)
            return
        try:  # a peer that is lost: as soon as it is back, and now and then anyhow
            async with asyncio.timeout(max(pause, LONGEST_PAUSE_S)):
                await known.back.wait()
        except TimeoutError:
            return

    async def _follow(self, progress: "Progress", remote: RemoteRun) -> None:
        known = self._book.get(progress.stack_id)
        if known is None:
            raise PeerUnreachableError("it is no peer any more")
        run_id = progress.ref.aggregate_id
        url = f"{known.entry.runs_url}/v1/runs/{run_id}/events?after_sequence={progress.copied}"
        headers = self._credentials.of_caller(known.entry, await self._owner(remote), "")
        async with self._ports.peering.client.stream(known.entry, url, headers) as (
            status,
            pieces,
            body,
        ):
            if status == 410:
                await self._expired(progress, body)
            elif status == 204:
                raise PeerUnreachableError("it says that there is nothing behind our copy")
            elif status != 200:
                raise PeerUnreachableError(f"it answers {status}")
            else:
                await self._take(progress, pieces)

    async def _by_link(self, progress: "Progress", link: Link) -> bool:
        """Copy what comes over the brokers, until the run's end or for as long as the link lives.

        Returns whether the peer has to be asked: events are missing, or nothing came for long.
        """
        async with link.following(progress.ref) as waiting:
            while not progress.has_ended and link.is_live:
                lines = waiting.next_lines(progress.copied)
                if lines and not _has_final(lines[-1]):
                    await asyncio.sleep(FLUSH_S)
                    lines = waiting.next_lines(progress.copied)
                if lines:
                    before = progress.copied
                    await self._write(progress, lines[: worth(lines)])
                    link.events += progress.copied - before
                waiting.copied(progress.copied)
                if lines or await waiting.more(SKIPPED_S if waiting.pieces else QUIET_S):
                    continue
                if waiting.pieces:
                    progress.cut("the link skipped events")
                return True
        if not progress.has_ended:
            progress.cut("the link between the brokers is down")
        return False

    async def _look(self, progress: "Progress", remote: RemoteRun) -> None:
        """Fetch from the peer what the link did not bring, if there is anything."""
        try:
            async with asyncio.timeout(LOOK_S), self._streams:
                await self._follow(progress, remote)
        except TimeoutError:
            return

    async def _owner(self, remote: RemoteRun) -> AuthContext:
        """Return whom the run was forwarded for: who asks for its events is the same."""
        ref = forward_ref(remote.ref.tenant_id, remote.linked.forward_id)
        forward = Forward(ref).fold(await self._ports.log.read(ref))
        if forward.status is None:
            return system_auth(remote.ref.tenant_id)
        return caller_of(remote.ref.tenant_id, forward.requested)

    async def _take(self, progress: "Progress", pieces: AsyncIterator[bytes]) -> None:
        box = Box()
        box.room.set()
        reading = asyncio.create_task(_read(pieces, box))
        try:
            while not progress.has_ended:
                waiting = asyncio.create_task(box.ready.wait())
                await asyncio.wait({waiting, reading}, return_when=asyncio.FIRST_COMPLETED)
                waiting.cancel()
                if not box.lines:
                    break
                if not box.is_final:
                    await asyncio.sleep(FLUSH_S)
                await self._write(progress, box.take())
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
        if not progress.has_ended:
            if reading.done() and not reading.cancelled() and (broken := reading.exception()):
                raise broken
            raise PeerUnreachableError("its stream ended before the run did")

    async def _write(self, progress: "Progress", lines: list[bytes]) -> None:
        command: dict[str, Any] = {
            "traceparent": NO_TRACE,
            "run_id": progress.ref.aggregate_id,
            "lines": _texts(lines),
            **progress.filling("peer"),
        }
        await self._send(progress, command)

    async def _send(self, progress: "Progress", command: dict[str, Any]) -> None:
        auth = system_auth(progress.ref.tenant_id)
        try:
            answer = await self._ports.bus.send("remote.copy", auth, command)
        except ConflictError as error:
            raise ConflictOfCopyError(error) from error
        progress.wrote(answer["copied"], has_ended=answer["ended"])

    async def _expired(self, progress: "Progress", body: dict[str, Any]) -> None:
        """The peer no longer has what comes next: the gap stays, with its numbers."""
        error = body.get("error")
        found = error.get("details") if isinstance(error, dict) else None
        details: dict[str, Any] = found if isinstance(found, dict) else {}
        first = details.get("first_sequence")
        if not isinstance(first, int) or first <= progress.copied + 1:
            raise PeerUnreachableError("it says that events are gone, and not which")
        command = _missing(progress, first - 1, "expired")
        if details.get("status") in FINAL:
            command["ended"] = details["status"]
        await self._send(progress, command)

    async def _note_gap(self, progress: "Progress", gap_to: int | None) -> None:
        """Write down that the peer skipped events, or sent what is none of this run's."""
        reason = "skipped" if gap_to else "refused"
        if reason == "refused":
            progress.pause = REFUSED_PAUSE_S
        try:
            await self._send(progress, _missing(progress, gap_to or progress.copied + 1, reason))
        except (AgentOSError, ConflictOfCopyError) as exc:
            log.warning("a gap was not noted: %s", exc)
        progress.cut("a gap")

    async def _fill_from_pushes(self, progress: "Progress") -> None:
        """While the peer cannot be asked: what it pushed may be what comes next."""
        if not progress.stack_id:
            return
        ref = ingest_ref(progress.ref.tenant_id, progress.stack_id, progress.ref.aggregate_id)
        try:
            records = await self._ports.log.read(ref)
            if not records:
                return
            lines = pushed_lines(records, progress.copied)
            if lines:
                command = {
                    "traceparent": NO_TRACE,
                    "run_id": progress.ref.aggregate_id,
                    "lines": [line.decode() for line in lines[: worth(lines)]],
                    **progress.filling("push"),
                }
                await self._send(progress, command)
        except (AgentOSError, ConflictOfCopyError) as exc:
            log.warning("pushed events did not continue the copy: %s", exc)


def pushed_lines(records: Sequence[Recorded], after: int) -> list[bytes]:
    """Return the pushed events that follow a sequence without a gap."""
    by_sequence: dict[int, bytes] = {}
    for record in records:
        for line in record.lines():
            for text in read_line(line)["payload"]["lines"]:
                inner = read_line(text.encode())
                by_sequence[inner["sequence"]] = text.encode()
    found = []
    while after + 1 in by_sequence:
        after += 1
        found.append(by_sequence[after])
    return found


async def _read(pieces: AsyncIterator[bytes], box: Box) -> None:
    async for frame in frames(pieces):
        if frame.event != "agentos.event" or frame.id is None:
            continue
        await box.room.wait()
        if _has_final(frame.data):
            box.is_final = True
        box.put(frame.data)


def _texts(lines: Sequence[bytes]) -> list[str]:
    try:
        return [line.decode() for line in lines]
    except UnicodeDecodeError as exc:
        raise ConflictOfCopyError(ConflictError("the peer sent what is no event")) from exc


def _has_final(line: bytes) -> bool:
    return any(name in line[:1024] for name in FINAL_NAMES)


def _missing(progress: Progress, last: int, reason: str) -> dict[str, Any]:
    return {
        "traceparent": NO_TRACE,
        "run_id": progress.ref.aggregate_id,
        "missing_to": last,
        "reason": reason,
    }
