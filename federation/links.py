"""What comes over the brokers: kept for each run until its copy takes it, or nobody does."""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from agentos.domain.errors import DependencyUnavailableError
from agentos.domain.federation.link import Inbox, Taken
from agentos.domain.federation.remote import remote_ref
from agentos.domain.run.events import FINAL_TYPES
from agentos.domain.subjects import StreamRef
from agentos.domain.times import rfc3339

LOOK_S: Final = 0.5
RETRY_S: Final = 0.5
UNWANTED_S: Final = 60.0
RUNS: Final = 10_000
MAX_BYTES: Final = 128 * 1024 * 1024
COMMAND_BYTES: Final = 1024 * 1024
FINAL: Final = tuple(name.encode() for name in FINAL_TYPES)
log = logging.getLogger(__name__)


class Waiting:
    """What came of one run and is not copied yet, by its first sequences."""

    def __init__(self, link: "Link", now: float) -> None:
        self._link = link
        self.since = now
        self.pieces: dict[int, Taken] = {}
        self.news = asyncio.Event()
        self.is_followed = False

    def put(self, piece: Taken) -> None:
        """Keep a commit; the same one once more replaces it."""
        if (old := self.pieces.pop(piece.first_sequence, None)) is not None:
            self._link.let_go(old)
        self.pieces[piece.first_sequence] = piece
        self.news.set()

    def next_lines(self, after: int) -> list[bytes]:
        """Return what follows a sequence without a gap, a command's worth."""
        self.news.clear()
        found: list[bytes] = []
        size = 0
        for first in sorted(self.pieces):
            piece = self.pieces[first]
            if first > after + 1 or size > COMMAND_BYTES:
                break
            found += piece.lines[max(0, after + 1 - first) :]
            size += sum(map(len, piece.lines))
            after = max(after, piece.last_sequence)
        return found

    def copied(self, upto: int) -> None:
        """Strike off what the copy has."""
        for first in [f for f, piece in self.pieces.items() if piece.last_sequence <= upto]:
            self._link.let_go(self.pieces.pop(first))

    def drop(self) -> None:
        """Strike everything off: what of it is wanted after all comes over HTTP."""
        for piece in self.pieces.values():
            self._link.let_go(piece)
        self.pieces.clear()

    async def more(self, timeout: float) -> bool:
        """Wait for news of the run or the link; false when the time is up."""
        try:
            async with asyncio.timeout(timeout):
                await self.news.wait()
        except TimeoutError:
            return False
        return True


class Link:
    """One peer's link: whether it is live, since when, and what came and waits."""

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox
        self._runs: OrderedDict[StreamRef, Waiting] = OrderedDict()
        self._bytes = 0
        self._why: str | None = "not looked at yet"
        self._since = time.time()
        self._falls = 0
        self.events = 0
        self.stack_id = inbox.stack_id

    @property
    def is_live(self) -> bool:
        """Whether what the peer commits comes this way at present."""
        return self._why is None

    def view(self) -> dict[str, Any]:
        """Return what `agentos peers status` shows of it."""
        return {
            "state": "live" if self.is_live else "down",
            "since": rfc3339(round(self._since * 1000)),
            "reason": self._why or "",
            "fell_over": self._falls,
            "events": self.events,
        }

    @asynccontextmanager
    async def following(self, ref: StreamRef) -> AsyncIterator[Waiting]:
        """Give what comes of a remote run, for as long as its copy is being made."""
        waiting = self._waiting(ref)
        waiting.is_followed = True
        try:
            yield waiting
        finally:
            waiting.drop()
            if self._runs.get(ref) is waiting:
                del self._runs[ref]

    async def run(self) -> None:
        """Take what comes, and look after the link, until cancelled."""
        try:
            await asyncio.gather(self._take(), self._watch())
        finally:
            await self._inbox.close()

    async def _take(self) -> None:
        while True:
            try:
                for piece in await self._inbox.take():
                    self._keep(piece)
            except DependencyUnavailableError as error:
                log.debug("nothing is taken from %s: %s", self.stack_id, error)
                await asyncio.sleep(RETRY_S)

    async def _watch(self) -> None:
        while True:
            self._set(await self._inbox.why_down())
            self._tidy()
            await asyncio.sleep(LOOK_S)

    def _set(self, why: str) -> None:
        was_live, self._why = self.is_live, why or None
        if was_live == self.is_live:
            return
        self._since = time.time()
        if self.is_live:
            log.info("events of %s come over the brokers", self.stack_id)
            return
        self._falls += 1
        log.warning("events of %s come over HTTP: %s", self.stack_id, why)
        for waiting in self._runs.values():
            waiting.news.set()

    def _keep(self, piece: Taken) -> None:
        self._bytes += sum(map(len, piece.lines))
        self._waiting(remote_ref(piece.ref.tenant_id, piece.ref.aggregate_id)).put(piece)
        if self._bytes > MAX_BYTES or len(self._runs) > RUNS:
            self._make_room()

    def _make_room(self) -> None:
        """Give up what waits, the oldest first: the runs that nobody follows before the others.

        A run that is followed stays known, so what comes of it next finds its copy.
        """
        for ref, waiting in list(self._runs.items()):
            if self._bytes <= MAX_BYTES and len(self._runs) <= RUNS:
                return
            if not waiting.is_followed:
                waiting.drop()
                del self._runs[ref]
        for waiting in self._runs.values():
            if self._bytes <= MAX_BYTES:
                return
            waiting.drop()

    def _waiting(self, ref: StreamRef) -> Waiting:
        found = self._runs.get(ref)
        if found is None:
            found = self._runs[ref] = Waiting(self, time.monotonic())
        return found

    def _tidy(self) -> None:
        """Strike off what no copy has asked for in a minute: no run of ours, or over."""
        limit = time.monotonic() - UNWANTED_S
        for ref, waiting in list(self._runs.items()):
            if not waiting.is_followed and waiting.since < limit:
                waiting.drop()
                del self._runs[ref]

    def let_go(self, piece: Taken) -> None:
        """Strike a commit off."""
        self._bytes -= sum(map(len, piece.lines))
        self._inbox.done(piece.token)
