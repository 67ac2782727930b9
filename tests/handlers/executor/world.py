"""The world as an executor's tests make it: scripted models, counted tools, cuttable lines."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agentos.domain.agent.agent import Definition
from agentos.domain.auth import AuthContext
from agentos.domain.ids import derived_id
from agentos.domain.log import Commit, Recorded
from agentos.domain.ports import (
    EventLog,
    ModelAnswer,
    ModelRequest,
    RequestedToolCall,
    RunQueue,
    ToolCall,
    ToolNature,
    ToolSpec,
    Usage,
    WorkItem,
)
from agentos.domain.run.run import run_ref
from agentos.domain.subjects import StreamRef
from agentos.handlers.crash import CrashPoint, never
from agentos.handlers.executor.calls import Outside
from agentos.handlers.executor.deltas import Deltas
from agentos.handlers.executor.execution import Bench
from agentos.handlers.executor.worker import Worker
from tests.domain.replay.given import assert_replays
from tests.handlers.node import Node

APPROVAL_WAIT_MS = 3_600_000
ASKS = {"decision": "approval_required", "reasons": ["pol_a@1", "approval_required:boss"]}
BLOCKS = {"decision": "blocked", "reasons": ["pol_a@1", "block:never"]}


def now() -> float:
    """Return the (virtual) seconds."""
    return asyncio.get_running_loop().time()


@dataclass
class Made:
    """A call that was made: when it began, and when and how it ended."""

    id: str
    began: float
    ended: float | None = None
    how: str = ""


class Models:
    """Answers by a script: one entry an answer, a list of tool ids to call or a text.

    `policies` is what policy says of the calls of some tools.
    """

    def __init__(
        self,
        *script: Sequence[str] | str | Exception,
        takes_s: float = 0.01,
        policies: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.script = script or ("done",)
        self.takes_s = takes_s
        self.policies = policies or {}
        self.made: list[Made] = []

    async def invoke(
        self,
        auth: AuthContext,
        request: ModelRequest,
        on_delta: Callable[[str], None] | None = None,
    ) -> ModelAnswer:
        """Answer as the script says for so many answers before."""
        made = Made(request.request_id, now())
        self.made.append(made)
        try:
            await asyncio.sleep(self.takes_s)
            made.how = "ok"
        except asyncio.CancelledError:
            made.how = "stopped"
            raise
        finally:
            made.ended = now()
        turn = sum(m.role == "assistant" for m in request.messages)
        said = self.script[min(turn, len(self.script) - 1)]
        if isinstance(said, Exception):
            raise said
        if isinstance(said, str):
            return ModelAnswer(said, (), Usage(1, 1), "fake", "m")
        calls = tuple(
            RequestedToolCall(
                derived_id("tcall", request.request_id, str(n)),
                tool,
                tool,
                {"n": n},
                self.policies.get(tool),
            )
            for n, tool in enumerate(said)
        )
        return ModelAnswer("", calls, Usage(1, 1), "fake", "m")


@dataclass
class Tool:
    """A tool: its nature, how long it takes, and what comes of it."""

    nature: ToolNature = "idempotent"
    takes_s: float = 0.01
    output: Any = "fine"
    error: Exception | None = None
    timeout_ms: int = 30_000


@dataclass
class Tools:
    """The tools of a test, and every call that was made of them."""

    tools: dict[str, Tool] = field(default_factory=dict)
    made: list[Made] = field(default_factory=list)
    checked: list[str] = field(default_factory=list)
    answered: dict[str, Any] = field(default_factory=dict)

    def spec(self, tool_id: str) -> ToolSpec | None:
        """Return what is known of a tool."""
        tool = self.tools.get(tool_id)
        if tool is None:
            return None
        return ToolSpec(tool_id, "a tool", {"type": "object"}, tool.nature, tool.timeout_ms)

    async def call(self, auth: AuthContext, call: ToolCall) -> Any:
        """Make the call: it counts from its first moment, and has an effect at its end."""
        tool = self.tools[call.tool_id]
        made = Made(call.tool_call_id, now())
        self.made.append(made)
        try:
            await asyncio.sleep(tool.takes_s)
            made.how = "ok"
        except asyncio.CancelledError:
            made.how = "stopped"
            raise
        finally:
            made.ended = now()
        if tool.error is not None:
            raise tool.error
        self.answered[call.tool_call_id] = tool.output
        return tool.output

    async def check(self, auth: AuthContext, call: ToolCall) -> Any:
        """Return the output of a call that came to its end."""
        self.checked.append(call.tool_call_id)
        return self.answered.get(call.tool_call_id)

    def times(self) -> dict[str, int]:
        """Return how often each call was made."""
        ids = [made.id for made in self.made]
        return {i: ids.count(i) for i in ids}


class Line:
    """One executor's line to log, queue and signals: it can be cut for a while, or for ever."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.up = asyncio.Event()
        self.up.set()
        self.silent = False
        self._log = _CutLog(node.opened_log(needs_keys=True), self)

    @property
    def log(self) -> EventLog:
        """The log as this executor reaches it."""
        return self._log

    async def through(self) -> None:
        """Wait until the line is up."""
        await self.up.wait()

    async def publish(self, subject: str, data: bytes) -> None:
        """Send, unless the executor is not heard."""
        if not self.silent:
            await self._node.signals.publish(subject, data)

    async def subscribe(
        self, subject: str, on_message: Callable[[str, bytes], None]
    ) -> Callable[[], Awaitable[None]]:
        """Listen, as long as the executor hears."""

        def hear(subject: str, data: bytes) -> None:
            if not self.silent:
                on_message(subject, data)

        return await self._node.signals.subscribe(subject, hear)


class _CutLog:
    def __init__(self, log: EventLog, line: Line) -> None:
        self._log = log
        self._line = line

    async def append(self, commit: Commit, *, expected: int) -> int:
        await self._line.through()
        position = await self._log.append(commit, expected=expected)
        await self._line.through()
        return position

    async def read(self, ref: StreamRef, *, after: int = 0) -> list[Recorded]:
        await self._line.through()
        return await self._log.read(ref, after=after)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)


class _CutQueue:
    def __init__(self, queue: RunQueue, line: Line) -> None:
        self._queue = queue
        self._line = line

    async def put(self, item: WorkItem) -> None:
        await self._queue.put(item)

    async def take(self, limit: int, timeout: float) -> list[WorkItem]:
        await self._line.through()
        items = await self._queue.take(limit, timeout)
        await self._line.through()
        return items

    async def done(self, item: WorkItem) -> None:
        if self._line.up.is_set():  # else it is lost, and the item comes once more
            await self._queue.done(item)

    async def size(self) -> int:
        return await self._queue.size()


class Executor:
    """An executor process."""

    def __init__(
        self,
        node: Node,
        models: Models,
        tools: Tools,
        *,
        name: str = "wrk_1",
        slots: int = 16,
        crash_point: CrashPoint = never,
        instructions: str | None = None,
    ) -> None:
        self.node, self.models, self.tools = node, models, tools
        self.line = Line(node)

        definition = node.definition = Definition(
            name="A", model_ref="fake/m", tools=tuple(tools.tools), instructions=instructions
        )

        async def definitions(run: StreamRef, agent_id: str, version: str) -> Definition:
            return definition

        self.bench = Bench(
            worker_id=name,
            log=self.line.log,
            outside=Outside(
                models,
                tools,
                node.clock,
                node.new_id,
                "stk_test",
                approval_wait_ms=APPROVAL_WAIT_MS,
            ),
            definitions=definitions,
            deltas=Deltas(self.line),
            crash_point=crash_point,
        )
        self.worker = Worker(self.bench, _CutQueue(node.queue, self.line), self.line, slots)
        self.task = node.own(self.worker.run())

    async def kill(self) -> None:
        """End the process as a crash does: it says nothing and writes nothing more."""
        self.line.silent = True
        self.line.up.clear()
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


async def until(done: Callable[[], Awaitable[bool]], seconds: float = 60) -> float:
    """Wait until something is so; return how long it took. `TimeoutError` after `seconds`."""
    began = now()
    async with asyncio.timeout(seconds):
        while not await done():  # noqa: ASYNC110 - virtual time: it costs nothing
            await asyncio.sleep(0.01)
    return now() - began


async def until_final(node: Node, run_id: str, seconds: float = 60) -> float:
    """Wait until a run has ended; whatever happened, its log replays to the same bytes."""

    async def ended() -> bool:
        return (await node.run(run_id)).is_final

    took = await until(ended, seconds)
    if node.definition is not None:
        records = await node.opened_log().read(run_ref("tnt_a", run_id))
        if all(record.readable for record in records):
            assert_replays(records, node.definition)
    return took
