"""One tail of the log per gateway process, handed out to everything that waits here."""

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from functools import cached_property
from typing import Final, Protocol, cast

from agentos.domain.errors import AgentOSError, CursorExpiredError, DependencyUnavailableError
from agentos.domain.log import Recorded, TailBatch
from agentos.domain.ports import Contents, EventLog
from agentos.domain.retention.retention import KIND as RETENTION
from agentos.domain.retention.retention import RetentionBegun, RetentionPlanned
from agentos.domain.subjects import StreamRef

log = logging.getLogger(__name__)

RETRY_S: Final = 0.2
GONE_UNSEEN: Final = "events may have been let go before they were shown here"
RUNS: Final = ("run",)
AUDIT: Final = ("audit",)
AGENT: Final = re.compile(rb'"agent_id":"([^"]*)"')


class Framed:
    """A commit with its server-sent frames, each made once and shared by all streams."""

    def __init__(self, record: Recorded) -> None:
        self.record = record

    @cached_property
    def run_frames(self) -> list[bytes]:
        """One frame an event; its id is the event's sequence."""
        first = self.record.first_sequence
        return [
            b"event: agentos.event\nid: %d\ndata: %b\n\n" % (first + at, line)
            for at, line in enumerate(self.record.lines())
        ]

    @cached_property
    def run_chunk(self) -> bytes:
        """All frames of the commit in one piece."""
        return b"".join(self.run_frames)

    @cached_property
    def tenant_frames(self) -> list[bytes]:
        """One frame an event; its id is the log position and the line, from 1."""
        position = self.record.position
        return [
            b"event: agentos.event\nid: %d-%d\ndata: %b\n\n" % (position, at, line)
            for at, line in enumerate(self.record.lines(), 1)
        ]

    @cached_property
    def agent_id(self) -> str:
        """Whose run it is: the envelope names the agent before any content of a caller."""
        found = AGENT.search(self.record.body)
        return found[1].decode() if found else ""

    @property
    def size(self) -> int:
        """About how many bytes it is on a stream."""
        return len(self.record.body) + 64 * len(self.record.types)


class Listener(Protocol):
    """Whoever wants to hear of commits. It must be quick, and not raise."""

    def offer(self, framed: Framed) -> None:
        """Take a commit that was just read."""
        ...

    def missed(self) -> None:
        """Learn that commits may have passed unseen: look into the log."""
        ...

    def cut(self, error: AgentOSError) -> None:
        """Learn that commits have passed unseen that the log has no more."""
        ...


class SharedTail:
    """Reads the log's end for as long as the process lives, and hands each commit out.

    `position` is that of the last commit handed out, `None` before the log was ever reached. What
    is sealed is opened by `contents`, and only where somebody listens to it.
    """

    def __init__(self, event_log: EventLog, contents: Contents | None = None) -> None:
        self._log = event_log if contents is None else contents.stored
        self._contents = contents
        self._aggregates: dict[StreamRef, dict[Listener, None]] = {}
        self._tenants: dict[str, dict[Listener, None]] = {}
        self._plans_heard: dict[str, int] = {}
        self.position: int | None = None
        self.reached = asyncio.Event()

    def reached_position(self) -> int:
        """Return `position`; `DependencyUnavailableError` as long as there is none."""
        if self.position is None:
            raise DependencyUnavailableError("the log is not reached yet", dependency="nats")
        return self.position

    @contextmanager
    def listening_to(self, ref: StreamRef, listener: Listener) -> Iterator[None]:
        """Hear of every commit of a run, or of an audit chain, from now on."""
        found = self._aggregates.setdefault(ref, {})
        found[listener] = None
        try:
            yield
        finally:
            del found[listener]
            if not found and self._aggregates.get(ref) is found:
                del self._aggregates[ref]

    @contextmanager
    def listening_to_tenant(self, tenant_id: str, listener: Listener) -> Iterator[int]:
        """Hear of every run commit of a tenant behind the position that this yields.

        Raises `DependencyUnavailableError` as long as the log was never reached.
        """
        now = self.reached_position()
        found = self._tenants.setdefault(tenant_id, {})
        found[listener] = None
        try:
            yield now
        finally:
            del found[listener]
            if not found and self._tenants.get(tenant_id) is found:
                del self._tenants[tenant_id]

    async def run(self) -> None:
        """Tail the log until cancelled. What cannot be reached is tried again for ever."""
        while True:
            try:
                await self._follow()
            except DependencyUnavailableError as error:
                log.warning("the tail lost the log: %s", error)
            await asyncio.sleep(RETRY_S)

    async def _follow(self) -> None:
        is_first = self.position is None
        after = await self._log.head() if self.position is None else self.position
        # All of it: what nobody waits for costs less here than several filters cost the broker.
        batches = self._log.tail(after=after)
        async with aclosing(cast("AsyncGenerator[TailBatch]", batches)) as opened:
            async for batch in opened:
                if is_first:
                    is_first = False
                    self.position = after
                    self.reached.set()
                    self._tell_missed()
                for record in batch.records:
                    if record.ref.kind == RETENTION:
                        await self._hear_of_retention(record)
                    elif record.sealed and self._contents is not None:
                        await self._open_and_hand_out(record, self._contents)
                    else:
                        self._hand_out(record)

    async def _open_and_hand_out(self, record: Recorded, contents: Contents) -> None:
        """Hand out a sealed commit; what cannot be opened is its own listeners' trouble alone."""
        if not self._listeners(record):
            self._hand_out(record)
            return
        try:
            opened = await contents.open(record)
        except AgentOSError as error:
            log.warning("a sealed commit was not opened: %s", error)
            self.position = record.position
            for listener in self._listeners(record):
                listener.missed()
        else:
            self._hand_out(opened)

    async def _hear_of_retention(self, record: Recorded) -> None:
        """Make sure that nothing went before it was handed out, or tell those who wait for it.

        A plan stands in the log for a while before it is begun. Whoever reads the plan while it
        is the last word has read everything before it too, and nothing of that was gone yet.
        """
        tenant_id = record.ref.tenant_id
        if record.types[-1] == RetentionPlanned.TYPE:
            last = await self._log.last(record.ref)
            if last is not None and last.position == record.position:
                self._plans_heard[tenant_id] = record.position
        elif record.types[-1] == RetentionBegun.TYPE:
            was_heard = self._plans_heard.pop(tenant_id, None) == record.base
            for listener in () if was_heard else tuple(self._tenants.get(tenant_id, ())):
                listener.cut(CursorExpiredError(GONE_UNSEEN, first_sequence=1))
        self.position = record.position

    def _hand_out(self, record: Recorded) -> None:
        self.position = record.position
        if listeners := self._listeners(record):
            framed = Framed(record)
            for listener in listeners:
                listener.offer(framed)

    def _listeners(self, record: Recorded) -> tuple[Listener, ...]:
        aggregate = self._aggregates.get(record.ref)
        is_run = record.ref.kind in RUNS
        tenant = self._tenants.get(record.ref.tenant_id) if is_run else None
        if aggregate is None and tenant is None:
            return ()
        return (*(aggregate or ()), *(tenant or ()))

    def _tell_missed(self) -> None:
        """Whoever registered before the tail stood may have missed commits in between."""
        for group in (*self._aggregates.values(), *self._tenants.values()):
            for listener in group:
                listener.missed()


class FinalWaiter:
    """Waits until something of a run may be worth a look: its final event, or a gap."""

    def __init__(self, final_types: frozenset[str]) -> None:
        self._final_types = final_types
        self._woken = asyncio.Event()

    def offer(self, framed: Framed) -> None:
        """Wake at the final event."""
        if not self._final_types.isdisjoint(framed.record.types):
            self._woken.set()

    def missed(self) -> None:
        """Wake: the final event may have passed."""
        self._woken.set()

    def cut(self, error: AgentOSError) -> None:
        """Wake: what waits for the run will find out."""
        self._woken.set()

    async def wait(self, until: float) -> bool:
        """Return whether it woke before the loop's time was `until`."""
        try:
            async with asyncio.timeout_at(until):
                await self._woken.wait()
        except TimeoutError:
            return False
        self._woken.clear()
        return True
