"""The executor's process: takes runs while it has slots, and says every half second it lives."""

import asyncio
import os
from itertools import count
from typing import Final

import orjson
import structlog

from agentos.domain.aggregate import FoldError
from agentos.domain.errors import AgentOSError, InternalError
from agentos.domain.ports import RunQueue, Signals, WorkItem
from agentos.domain.run.advance import error_info
from agentos.domain.subjects import ALL_CANCEL_NOTICES, heartbeat, metrics
from agentos.handlers.executor.execution import Bench, Execution, LeaseLostError

BEAT_S: Final = 0.5
METRICS_EVERY: Final = 4
TAKE_S: Final = 1.0
log = structlog.get_logger()


class Worker:
    """Works runs off side by side, at most `slots` of them.

    `place` is the same for all executors that a supervisor puts there one after the other: the
    next one's heartbeat says that the one before is gone.
    """

    def __init__(
        self, bench: Bench, queue: RunQueue, signals: Signals, slots: int, place: str = ""
    ) -> None:
        self._bench = bench
        self._queue = queue
        self._signals = signals
        self._slots = slots
        self._place = place
        self._tasks: set[asyncio.Task[None]] = set()
        self._running: dict[str, Execution] = {}
        self._room = asyncio.Event()

    async def run(self) -> None:
        """Take and execute until cancelled; then give the leases up by saying so."""
        stop = await self._signals.subscribe(ALL_CANCEL_NOTICES, self._on_cancel_notice)
        beat = asyncio.create_task(self._beat())
        try:
            await self._take_for_ever()
        finally:
            beat.cancel()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(beat, *self._tasks, return_exceptions=True)
            await stop()
            await self._say(leaving=True)

    async def _take_for_ever(self) -> None:
        while True:
            free = self._slots - len(self._tasks)
            if free <= 0:
                self._room.clear()
                await self._room.wait()
                continue
            try:
                items = await self._queue.take(free, TAKE_S)
            except AgentOSError as error:
                log.warning("cannot take work", error=str(error))
                await asyncio.sleep(BEAT_S)
                continue
            for item in items:
                self._own(asyncio.create_task(self._execute(item)))

    def _own(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._room.set()

    async def _execute(self, item: WorkItem) -> None:
        run_id = item.ref.aggregate_id
        if run_id in self._running:
            await self._queue.done(item)
            return
        execution = self._running[run_id] = Execution(self._bench, item)
        try:
            await execution.execute(lambda: self._queue.done(item))
        except LeaseLostError as lost:
            log.info("lease lost", **execution.log_fields(), reason=str(lost))
        except AgentOSError as error:
            log.warning("run put back", **execution.log_fields(), error=str(error))
        except Exception:  # the outermost of a run: it fails, the worker goes on
            log.exception("run broke", **execution.log_fields())
            await self._break(execution)
        finally:
            del self._running[run_id]

    async def _break(self, execution: Execution) -> None:
        try:
            await execution.fail(error_info(InternalError("the executor broke on this run")))
        except LeaseLostError:
            return
        except (AgentOSError, FoldError):
            log.exception("run cannot be failed", **execution.log_fields())

    def _on_cancel_notice(self, subject: str, data: bytes) -> None:
        execution = self._running.get(subject.rpartition(".")[2])
        if execution is not None:
            self._own(asyncio.create_task(self._stop(execution)))

    async def _stop(self, execution: Execution) -> None:
        try:
            await execution.stop_if_canceled()
        except AgentOSError as error:
            log.warning("cannot look for a cancel request", error=str(error))

    async def _beat(self) -> None:
        for beat in count():
            await self._say()
            if beat % METRICS_EVERY == 0:
                figures = self._bench.metrics.snapshot()
                await self._signals.publish(metrics("executor", self._bench.worker_id), figures)
            await asyncio.sleep(BEAT_S)

    async def _say(self, *, leaving: bool = False) -> None:
        worker = self._bench.worker_id
        beat = {
            "service": "executor",
            "worker_id": worker,
            "pid": os.getpid(),
            "slots": self._slots,
            "active": len(self._running),
            "leaving": leaving,
            "place": self._place,
        }
        await self._signals.publish(heartbeat("executor", worker), orjson.dumps(beat))
