"""One run in the hands of one executor, from its lease to its final event or a long wait."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, TypeVar

from agentos.domain.agent.agent import Definition
from agentos.domain.aggregate import Moment
from agentos.domain.auth import SYSTEM_PRINCIPAL
from agentos.domain.envelope import NO_TRACE, Origin
from agentos.domain.errors import (
    AppendConflictError,
    DependencyUnavailableError,
    InterruptedRunError,
    SubjectErasedError,
    TimedOutError,
)
from agentos.domain.log import Commit, Lease, Recorded, make_commit
from agentos.domain.ports import CallOrigin, EventLog, ModelRequest, ToolSpec, WorkItem
from agentos.domain.run.advance import Plan, Work, advance, error_info, make_plan, run_deadline
from agentos.domain.run.events import (
    ErrorInfo,
    RunCancelRequested,
    ToolCallCompleted,
)
from agentos.domain.run.run import Run
from agentos.domain.subjects import StreamRef
from agentos.domain.tracing.ids import log_fields
from agentos.handlers.crash import CrashPoint
from agentos.handlers.executor.calls import Outside, ask_model, call_tool
from agentos.handlers.executor.deltas import Deltas
from agentos.handlers.executor.gate import allows
from agentos.handlers.metrics import ExecutorMetrics

LEASE_MARGIN_MS: Final = 1_000
FENCE_S: Final = 1.5  # unheard for 2 s ends the lease, and the last beat may be 0.5 s old
RETRY_S: Final = 0.2
Stage = Callable[[Run, Moment], None]
T = TypeVar("T")
Definitions = Callable[[StreamRef, str, str], Awaitable[Definition]]


class LeaseLostError(Exception):
    """Another executor has the run, or this one stood still for too long."""


@dataclass(frozen=True, slots=True)
class Bench:
    """What all executions of a process share."""

    worker_id: str
    log: EventLog
    outside: Outside
    definitions: Definitions
    deltas: Deltas
    crash_point: CrashPoint
    metrics: ExecutorMetrics = field(default_factory=ExecutorMetrics)


class Execution:
    """Works one run off, step by step; whatever it does is in the log before and after."""

    def __init__(self, bench: Bench, item: WorkItem) -> None:
        self._bench = bench
        self._item = item
        self._run = Run(item.ref)
        self._attempt = 0
        self._begun: frozenset[str] = frozenset()
        self._scope: asyncio.Timeout | None = None
        self._sent_at = 0.0
        self._plan: Plan

    @property
    def run_id(self) -> str:
        """The run in hand."""
        return self._item.ref.aggregate_id

    def log_fields(self) -> dict[str, str]:
        """Return what a log line says of whose run it is about."""
        trace, ref = self._run.trace, self._run.ref
        whose = {"run_id": ref.aggregate_id, "tenant_id": ref.tenant_id}
        return whose | (log_fields(trace.traceparent) if trace else {})

    async def execute(self, taken: Callable[[], Awaitable[None]]) -> None:
        """Take the run and work it off, until it ends or waits for a person.

        `taken` is called once the log says whose it is. Of a run that waits nothing is kept here.
        """
        item, log = self._item, self._bench.log
        records = item.records or await log.read(item.ref)
        run = self._run.fold(records)
        self._attempt = run.attempt
        if run.status is None or run.is_final or run.is_waiting or self._is_stale(records):
            await taken()
            return
        try:
            work = await self._take() if run.is_readable else await self._write(_end_erased)
        finally:
            await taken()
        while not work.is_nothing:
            if asyncio.get_running_loop().time() - self._sent_at > FENCE_S:
                work = await self._fence()
            else:
                work = await self._perform(work)

    def _is_stale(self, records: Sequence[Recorded]) -> bool:
        """Whether someone has worked on the run since it was offered: the lease is theirs."""
        after = self._item.position
        return any(r.position > after and r.lease is not None for r in reversed(records))

    async def stop_if_canceled(self) -> None:
        """Look at the log; with a cancel request there, stop the call in flight."""
        records = await self._bench.log.read(self._run.ref, after=self._run.position)
        scope = self._scope
        if scope is None or scope.expired():
            return
        if any(RunCancelRequested.TYPE in record.types for record in records):
            scope.reschedule(asyncio.get_running_loop().time())

    async def fail(self, error: ErrorInfo) -> None:
        """End the run with `error`, if it is still this executor's."""
        self._run.collect()
        await self._refold()
        await self._write(lambda run, at: run.fail(error, at))

    async def _take(self) -> Work:
        run = self._run
        definition = await self._bench.definitions(run.ref, run.agent_id, run.created.agent_version)
        self._plan = make_plan(run, definition, await self._specs())
        self._begun = frozenset(run.open_tools)
        self._bench.crash_point("executor.before_started")
        work = await self._fence()
        self._bench.crash_point("executor.after_started")
        return work

    async def _specs(self) -> Callable[[str], ToolSpec | None]:
        """Return how to look up a tool that the tenant is entitled to."""
        outside = self._bench.outside
        if outside.gate is None:
            return outside.tools.spec
        tenant = await outside.gate.tenant(self._run.ref.tenant_id)
        return lambda tool_id: outside.tools.spec(tool_id) if allows(tenant, tool_id) else None

    async def _fence(self) -> Work:
        """Begin an attempt: behind this append no earlier lease holder can write.

        Also whoever stood still between an intent and its call begins a new one: its silence
        may have cost it the lease, and only an append can tell.
        """

        def start(run: Run, at: Moment) -> None:
            run.start(self._bench.worker_id, at, self._plan.offered())

        work = await self._write(start)
        self._attempt = self._run.attempt
        return work

    async def _perform(self, work: Work) -> Work:
        """Make the calls of `work` within the run's time, and write down what came of them."""
        try:
            if work.model is None:
                return await self._call_tools(work)
            stage = await self._in_time(self._ask(work.model))
        except TimeoutError:
            return await self._stopped()
        self._bench.crash_point("executor.before_result")
        return await self._write(stage)

    async def _in_time(self, call: Awaitable[T]) -> T:
        """Await a call; `TimeoutError` when the run's time is up or a cancel request came."""
        now = self._bench.outside.clock.now_ms()
        left = max(0, run_deadline(self._run, self._plan) - now) / 1000
        try:
            async with asyncio.timeout(left) as self._scope:
                return await call
        finally:
            self._scope = None

    async def _stopped(self) -> Work:
        """The call in flight was stopped: by a cancel request, or by the run's time."""
        await self._refold()

        def end(run: Run, at: Moment) -> None:
            if run.cancel is None:
                run.fail(error_info(TimedOutError("the run's time is up")), at)

        return await self._write(end)

    async def _ask(self, request: ModelRequest) -> Stage:
        run = self._run
        step_id = run.open_model[1].step_id if run.open_model else ""
        async with self._bench.deltas.of_step(run, step_id) as on_delta:
            completed = await ask_model(self._bench.outside, run.auth(), request, on_delta)
        self._bench.crash_point("executor.after_model")
        return lambda run, at: run.end_model(completed, at)

    async def _call_tools(self, work: Work) -> Work:
        """Call them side by side, and what is approved meanwhile as soon as one of them ends."""
        begun: set[str] = set()
        pending = self._begin(work, begun)
        try:
            while pending and not work.is_nothing:
                first = asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                done, pending = await self._in_time(first)
                self._bench.crash_point("executor.after_tool")
                work = await self._write(partial(_end_tools, done))
                pending |= self._begin(work, begun)
            return work
        finally:
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)

    def _begin(self, work: Work, begun: set[str]) -> set[asyncio.Task[ToolCallCompleted]]:
        """Start the calls that are not in hand yet."""
        outside, auth, origin = self._bench.outside, self._run.auth(), self._origin()
        calls = [call for call in work.tools if call.tool_call_id not in begun]
        begun.update(call.tool_call_id for call in calls)
        return {
            asyncio.create_task(
                call_tool(
                    outside,
                    auth,
                    call,
                    was_begun=call.tool_call_id in self._begun,
                    origin=origin,
                )
            )
            for call in calls
        }

    def _origin(self) -> CallOrigin:
        run = self._run
        labels = run.created.context.get("labels") or {}
        return CallOrigin(run.agent_id, run.ref.aggregate_id, labels)

    async def _write(self, stage: Stage) -> Work:
        """Stage, decide what follows, append; again on the fresh run when it has moved."""
        bench = self._bench
        while True:
            run = self._run
            origin = Origin(NO_TRACE, SYSTEM_PRINCIPAL)
            at = Moment(bench.outside.clock.now_ms(), bench.outside.new_id, origin)
            if not run.is_final:
                (stage if run.is_readable else _end_erased)(run, at)
            work = Work() if run.is_final else advance(run, self._plan, at)
            events = run.collect()
            if not events:
                return work
            lease = None
            if not run.is_final and not run.is_waiting:
                lease = Lease(bench.worker_id, work.deadline_ms + LEASE_MARGIN_MS)
            commit = make_commit(
                run.ref,
                events,
                bench.outside.new_id,
                lease=lease,
                sealed=run.sealed,
                waits_until=run.waits_until,
            )
            try:
                await self._append(commit)
            except AppendConflictError:
                await self._refold()
            else:
                bench.metrics.written(run, events)
                return work

    async def _append(self, commit: Commit) -> None:
        """Append, waiting out a broker that is down: the same bytes are sent again.

        The lease counts from when they were sent first: that may be when they were written.
        """
        self._sent_at = asyncio.get_running_loop().time()
        while True:
            try:
                position = await self._bench.log.append(commit, expected=self._run.position)
            except DependencyUnavailableError:
                await asyncio.sleep(RETRY_S)
            else:
                self._run.position = position
                now = asyncio.get_running_loop().time()
                self._bench.metrics.append_seconds.observe(now - self._sent_at)
                self._bench.crash_point("executor.after_append")
                return

    async def _refold(self) -> None:
        """Read the run anew; `LeaseLostError` unless it is still this executor's."""
        while True:
            try:
                records = await self._bench.log.read(self._run.ref)
                break
            except DependencyUnavailableError:
                await asyncio.sleep(RETRY_S)
        run = self._run = Run(self._run.ref).fold(records)
        if run.is_final or run.attempt != self._attempt:
            raise LeaseLostError("the run is another's, or has ended")


def _end_erased(run: Run, at: Moment) -> None:
    """End a run whose content was erased: there is nothing left that it could work on."""
    if run.cancel is not None:
        run.finish_cancel(at)
    else:
        run.fail(error_info(SubjectErasedError("the data subject of the run was erased")), at)


def _end_tools(done: set[asyncio.Task[ToolCallCompleted]], run: Run, at: Moment) -> None:
    """Stage the results of calls that are done; a call nobody may repeat ends the run."""
    interrupted: InterruptedRunError | None = None
    for task in done:
        error = task.exception()
        if isinstance(error, InterruptedRunError):
            interrupted = error
            continue
        completed = task.result()
        if completed.tool_call_id in run.open_tools:
            run.end_tool(completed, at)
    if interrupted is not None:
        run.fail(error_info(interrupted), at)
