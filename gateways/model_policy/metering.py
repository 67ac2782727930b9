"""What model calls used, on its way to the log: noted at once, written beside the answers."""

import asyncio
import logging
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import orjson

from agentos.domain.auth import Principal, system_auth
from agentos.domain.envelope import NO_TRACE
from agentos.domain.errors import AgentOSError, InternalError, TimedOutError
from agentos.domain.ports import CommandBus, EventLog, NewId
from agentos.domain.usage.usage import usage_ref
from agentos.gateways.http.metrics import Metrics
from agentos.gateways.model_policy.recording import Fields

log = logging.getLogger(__name__)

EVERY_S: Final = 0.02
BATCH: Final = 256
BATCH_BYTES: Final = 256 * 1024
MOST_CALLS: Final = 50_000
MOST_REDACTIONS: Final = 200
REFUSED_A_SECOND: Final = 10
AT_ONCE: Final = 32
SEND_S: Final = 5.0
FRESH_S: Final = 10.0
LONGEST_PAUSE_S: Final = 2.0
BROKEN: Final = 10
STOP_S: Final = 5.0
CACHED: Final = 20_000


class Ended(NamedTuple):
    """A call that ended, and whose it was."""

    principal: Principal
    traceparent: str
    usage: Fields


@dataclass(slots=True, eq=False)
class Book:
    """One tenant's calls that are not written yet, and how far its usage was last seen."""

    tenant_id: str
    calls: deque[Ended] = field(default_factory=deque)
    sending: asyncio.Task[None] | None = None
    position: int = 0
    seen_at: float = float("-inf")
    second: int = 0
    refusals: int = 0
    skipped: int = 0


class Meter:
    """Notes the usage of every model call of this process and gets it into the log.

    Batches go while callers already have their answers; what cannot be delivered is sent again
    until it is, the same batch never counting twice. At most `most` calls wait: what comes
    beyond is dropped, counted by `agentos_usage_unrecorded_total` and logged.
    """

    def __init__(
        self,
        bus: CommandBus,
        event_log: EventLog,
        new_id: NewId,
        metrics: Metrics,
        *,
        every_s: float = EVERY_S,
        most: int = MOST_CALLS,
    ) -> None:
        self._bus = bus
        self._log = event_log
        self._new_id = new_id
        self._metrics = metrics
        self._every_s = every_s
        self._most = most
        self._books: dict[str, Book] = {}
        self._full: set[Book] = set()
        self._due = asyncio.Event()
        self._room = asyncio.Semaphore(AT_ONCE)
        self._stopping = False
        self._warned_at = float("-inf")
        self.waiting = 0

    def record(self, tenant_id: str, principal: Principal, traceparent: str, usage: Fields) -> None:
        """Note a call that ended, with the fields of its `UsageRecorded`; never waits.

        Of refusals ten a second are written for each tenant; the next one says for how many it
        stands.
        """
        self._metrics.model_called(usage)
        book = self._books.get(tenant_id)
        if book is None:
            book = self._books[tenant_id] = Book(tenant_id)
            self._forget()
        if usage["status"] == "refused":
            if not self._is_written(book):
                return
            if book.skipped:
                usage = {**usage, "stands_for": 1 + book.skipped}
                book.skipped = 0
        if self.waiting >= self._most:
            self._drop("overflow", 1)
            return
        book.calls.append(Ended(principal, traceparent, usage))
        self.waiting += 1
        self._full.add(book)
        self._due.set()

    def note_overhead(self, seconds: float) -> None:
        """Note what a call that its first model answered took beside that model's time."""
        self._metrics.model_overhead.observe(seconds)

    async def run(self) -> None:
        """Write what is noted until cancelled, and then what is left, within seconds."""
        try:
            while True:
                await self._due.wait()
                await asyncio.sleep(self._every_s)
                self._due.clear()
                self._send_all()
        finally:
            await self.drain()

    async def drain(self) -> None:
        """Write what is left; what cannot be written in time is dropped and counted."""
        self._stopping = True
        self._send_all()
        sending = [book.sending for book in self._books.values() if book.sending]
        if sending:
            await asyncio.wait(sending, timeout=STOP_S)
        for task in sending:
            task.cancel()
        await asyncio.gather(*sending, return_exceptions=True)
        if self.waiting:
            self._drop("stopped", self.waiting)

    def _is_written(self, book: Book) -> bool:
        second = int(asyncio.get_running_loop().time())
        if second != book.second:
            book.second, book.refusals = second, 0
        book.refusals += 1
        if book.refusals <= REFUSED_A_SECOND:
            return True
        book.skipped += 1
        self._metrics.usage_unrecorded.labels("refused").inc()
        return False

    def _drop(self, reason: str, count: int) -> None:
        self._metrics.usage_unrecorded.labels(reason).inc(count)
        now = asyncio.get_running_loop().time()
        if now - self._warned_at >= 1.0:
            self._warned_at = now
            log.error("the usage of %d calls is lost (%s); see the metric", count, reason)

    def _forget(self) -> None:
        if len(self._books) > CACHED:
            for tenant_id, book in list(self._books.items())[: CACHED // 2]:
                if not book.calls and book.sending is None:
                    del self._books[tenant_id]

    # Sending

    def _send_all(self) -> None:
        for book in self._full:
            if book.sending is None:
                book.sending = asyncio.create_task(self._send(book))
        self._full.clear()

    async def _send(self, book: Book) -> None:
        """Send a tenant's calls in batches until none is left."""
        try:
            while book.calls:
                calls = self._batch(book)
                if calls:
                    await self._deliver(book, calls)
                self.waiting -= len(calls)
                if book.calls and len(book.calls) < BATCH and not self._stopping:
                    await asyncio.sleep(self._every_s)
        finally:
            book.sending = None

    def _batch(self, book: Book) -> list[dict[str, Any]]:
        """Take what goes into one commit; a call that is no JSON is dropped."""
        calls: list[dict[str, Any]] = []
        size = 0
        last: Principal | None = None  # calls of one caller come in a row
        principal: dict[str, Any] = {}
        while book.calls and len(calls) < BATCH and size < BATCH_BYTES:
            ended = book.calls.popleft()
            if ended.principal is not last:
                last, principal = ended.principal, ended.principal.model_dump()
            call = {
                "principal": principal,
                "traceparent": ended.traceparent,
                "usage": _bounded(ended.usage),
            }
            try:
                size += len(orjson.dumps(call))
            except TypeError:
                self.waiting -= 1
                self._drop("unfit", 1)
            else:
                calls.append(call)
        return calls

    async def _deliver(self, book: Book, calls: list[dict[str, Any]]) -> None:
        batch_id = self._new_id("bat")
        command: dict[str, Any] = {"traceparent": NO_TRACE, "batch_id": batch_id, "calls": calls}
        pause, broken = 0.1, 0
        while True:
            try:
                async with self._room:
                    if "after" not in command:
                        command["after"] = await self._position(book)
                    await self._try(book, command)
            except AgentOSError as error:
                broken += isinstance(error, InternalError)
                if not error.to_wire()["retryable"] or broken >= BROKEN:
                    log.error("a batch of usage is refused: %s", error)
                    self._drop("rejected", len(calls))
                    return
                log.warning("usage is not written yet: %s", error)
            else:
                return
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_S)

    async def _try(self, book: Book, command: dict[str, Any]) -> None:
        answer = await self._bus.send(
            "usage.record", system_auth(book.tenant_id), command, timeout=SEND_S
        )
        book.position = answer["position"]
        book.seen_at = asyncio.get_running_loop().time()

    async def _position(self, book: Book) -> int:
        """Return a position of the tenant's usage from before this batch, not long ago."""
        now = asyncio.get_running_loop().time()
        if now - book.seen_at > FRESH_S:
            try:
                async with asyncio.timeout(SEND_S):
                    last = await self._log.last(usage_ref(book.tenant_id))
            except TimeoutError as exc:
                raise TimedOutError("the log is not reached") from exc
            book.position = 0 if last is None else last.position
            book.seen_at = now
        return book.position


def _bounded(usage: Fields) -> Fields:
    """Return usage that names no more spans than anybody reads; the counts have them all."""
    policy = usage.get("policy")
    if policy is None or len(policy["redactions"]) <= MOST_REDACTIONS:
        return usage
    fewer = {**policy, "redactions": policy["redactions"][:MOST_REDACTIONS]}
    return {**usage, "policy": fewer}
