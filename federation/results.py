"""Forwards in hand: each is answered once the peer has the run, and its result written beside."""

import asyncio
import contextlib
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Final

from agentos.domain.errors import AgentOSError
from agentos.domain.subjects import StreamRef

LAST_S: Final = 1.0
View = dict[str, Any]


@dataclass(slots=True)
class Call:
    """`answer` is there before `task` is done: the task still writes the result."""

    answer: asyncio.Future[View]
    task: asyncio.Task[None]
    run: StreamRef | None = None


class Calls:
    """One call for each forward that this process has in hand."""

    def __init__(self) -> None:
        self._calls: dict[StreamRef, Call] = {}
        self._by_run: dict[StreamRef, StreamRef] = {}

    def get(self, ref: StreamRef) -> Call | None:
        """Return the call of a forward, until its result is written."""
        return self._calls.get(ref)

    def begin(self, ref: StreamRef, work: Coroutine[Any, Any, None]) -> Call:
        """Do the work of a forward; it says `answered` or `failed`, or raises."""
        answer: asyncio.Future[View] = asyncio.get_running_loop().create_future()
        call = self._calls[ref] = Call(answer, asyncio.create_task(work))
        call.task.add_done_callback(lambda done: self._ended(ref, done))
        return call

    def answered(self, ref: StreamRef, run: StreamRef, view: View) -> None:
        """Give everybody who waits the forward's view; what is left is to write the result."""
        call = self._calls[ref]
        call.run, self._by_run[run] = run, ref
        call.answer.set_result(view)

    def failed(self, ref: StreamRef, view: View) -> None:
        """Give everybody who waits the view of a forward that came to nothing."""
        answer = self._calls[ref].answer
        if not answer.done():
            answer.set_result(view)

    def of_run(self, run: StreamRef) -> StreamRef | None:
        """Return the forward whose result, this remote run, is being written."""
        return self._by_run.get(run)

    def run_of(self, ref: StreamRef) -> StreamRef | None:
        """Return the remote run that a forward was answered with, while it is being written."""
        call = self._calls.get(ref)
        return None if call is None else call.run

    async def settled(self, run: StreamRef | None, within: float) -> None:
        """Wait until the log has a remote run that a forward was answered with.

        So whoever was answered finds it. Returns when the time is up too.
        """
        ref = None if run is None else self._by_run.get(run)
        if ref is not None:
            await asyncio.wait([self._calls[ref].task], timeout=within)

    async def close(self) -> None:
        """Let results be written for a moment, and end the rest: their intents stand."""
        tasks = [call.task for call in self._calls.values()]
        writing = [call.task for call in self._calls.values() if call.answer.done()]
        if writing:
            await asyncio.wait(writing, timeout=LAST_S)
        for task in tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, AgentOSError):
                await task

    def _ended(self, ref: StreamRef, done: "asyncio.Task[None]") -> None:
        call = self._calls.pop(ref)
        if call.run is not None:
            del self._by_run[call.run]
        if call.answer.done():
            return
        error = None if done.cancelled() else done.exception()
        if error is None:
            call.answer.cancel()
        else:
            call.answer.set_exception(error)
            call.answer.exception()  # whoever waits raises it; nobody may
