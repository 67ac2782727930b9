"""Makes recorded runs as executors and handlers do, without either: stage, advance, commit."""

from collections.abc import Callable, Sequence
from typing import Any

from agentos.domain.agent.agent import Definition
from agentos.domain.aggregate import Moment
from agentos.domain.envelope import Payload
from agentos.domain.errors import InternalError, InterruptedRunError, TimedOutError, ToolFailedError
from agentos.domain.log import Recorded
from agentos.domain.ports import ToolSpec
from agentos.domain.run.advance import Plan, advance, error_info, make_plan
from agentos.domain.run.approvals import Decision
from agentos.domain.run.approving import decide_approval, expire_approvals
from agentos.domain.run.events import CallPolicy, ErrorInfo, ForkedFrom, ToolCallCompleted
from agentos.domain.run.run import Run, run_ref
from tests.domain.given import ASKS, BLOCKS, T0, Ids, answer, created, moment, spec, written

DEFINITION = Definition(
    name="A",
    model_ref="builtin/echo",
    instructions="be kind",
    tools=("tool.echo", "tool.time", "tool.kv.put"),
)
SPECS = {
    "tool.echo": spec("tool.echo", timeout=1000),
    "tool.time": spec("tool.time", timeout=9_999_999),
    "tool.kv.put": spec("tool.kv.put", "at_most_once", 30_000),
}


class Recorder:
    """One run as it is recorded. Every method is one commit; time goes on by `ms` before it.

    `says_nothing_of_tools` makes it write as before decision 017, no `parent_span_id` as before
    decision 019.
    """

    says_nothing_of_tools = False
    parent_span_id: str | None = "b7ad6b7169203331"

    def __init__(
        self,
        text: str = "hello",
        *,
        definition: Definition = DEFINITION,
        run_id: str = "run_1",
        fork: ForkedFrom | None = None,
        past: Sequence[tuple[str, Payload]] = (),
        **options: Any,
    ) -> None:
        self.definition = definition
        self.now, self.ids, self.position = T0, Ids(), 0
        self.records: list[Recorded] = []
        self.run = Run(run_ref("tnt_a", run_id))
        first = created(text, **options).model_copy(
            update={"fork": fork, "parent_span_id": self.parent_span_id}
        )
        self.run.create("agt_a", first, self.at())
        self.run.adopt(past, self.at())
        self.plan: Plan
        self._write()

    def at(self, ms: int = 0) -> Moment:
        """Return the moment so many ms later."""
        self.now += ms
        return moment(self.now, self.ids)

    def start(
        self,
        worker: str = "wrk_1",
        ms: int = 3,
        specs: Callable[[str], ToolSpec | None] = SPECS.get,
    ) -> "Recorder":
        """Take the run, with those tools."""
        self.plan = make_plan(self.run, self.definition, specs)
        tools = None if self.says_nothing_of_tools else self.plan.offered()
        return self._decide(lambda at: self.run.start(worker, at, tools), ms)

    def model(
        self,
        text: str = "done",
        calls: Sequence[str] = (),
        *,
        fails: bool = False,
        ms: int = 20,
        policies: dict[str, CallPolicy] | None = None,
    ) -> "Recorder":
        """Let the model answer: with a text, tool calls, or a failure."""
        assert self.run.open_model is not None
        asked = [(self.ids("tcall"), tool) for tool in calls]
        error = error_info(ToolFailedError("no")) if fails else None
        said = answer(self.run.open_model[0], text, asked, error=error, policies=policies)
        return self._decide(lambda at: self.run.end_model(said, at), ms)

    def tools(
        self, outputs: Sequence[Any], *, interrupted: bool = False, ms: int = 7
    ) -> "Recorder":
        """Let so many of the open tools answer, in the order in which they were asked."""
        open_calls = list(self.run.open_tools.items())[: len(outputs)]

        def end(at: Moment) -> None:
            for (call_id, call), output in zip(open_calls, outputs, strict=True):
                self.run.end_tool(_result(call_id, call.name, output), at)
            if interrupted:
                error = InterruptedRunError("it may have been made", tool_call_id="tcall_x")
                self.run.fail(error_info(error), at)

        return self._decide(end, ms)

    def decide(
        self, decision: Decision, reason: str | None = None, *, ms: int = 5_000
    ) -> "Recorder":
        """Let a person decide on the first approval without a decision."""
        (first, *_) = self.run.approvals.asked.values()
        at = self.at(ms)
        decide_approval(self.run, first.approval_id, decision, "usr_boss", reason, at)
        return self._write()

    def expire(self, ms: int = 60_000) -> "Recorder":
        """Let the time to decide go by."""
        expire_approvals(self.run, self.at(ms))
        return self._write()

    def cancel(self, reason: str | None = None, *, held: bool = False, ms: int = 5) -> "Recorder":
        """Ask the run to stop; with no holder it ends here."""
        at = self.at(ms)
        self.run.request_cancel("usr_a", reason, at)
        if not held:
            self.run.finish_cancel(at)
        return self._write()

    def stopped(self, ms: int = 1) -> "Recorder":
        """Let the holder stop what it does: a cancel, else its clock says that time is up."""

        def end(at: Moment) -> None:
            if self.run.cancel is None:
                self.run.fail(error_info(TimedOutError("the run's time is up")), at)

        return self._decide(end, ms)

    def broke(self) -> "Recorder":
        """Let the executor break."""
        error = error_info(InternalError("the executor broke on this run"))
        return self._decide(lambda at: self.run.fail(error, at), 1)

    def _decide(self, stage: Callable[[Moment], None], ms: int) -> "Recorder":
        at = self.at(ms)
        stage(at)
        if not self.run.is_final:
            advance(self.run, self.plan, at)
        return self._write()

    def _write(self) -> "Recorder":
        if events := self.run.collect():
            self.position += 3
            self.records.append(written(self.run, events, self.position))
            self.run.position = self.position
        return self


def _result(call_id: str, tool_id: str, output: Any) -> ToolCallCompleted:
    error: ErrorInfo | None = output if isinstance(output, ErrorInfo) else None
    return ToolCallCompleted(
        tool_call_id=call_id,
        tool_id=tool_id,
        status="error" if error else "ok",
        output=None if error else output,
        duration_ms=6,
        error=error,
    )


def entitled_to(*tools: str) -> Callable[[str], ToolSpec | None]:
    """Return the tools as a tenant sees them that is entitled to these alone."""
    return lambda name: SPECS.get(name) if name in tools else None


def kinds_of_runs() -> dict[str, Recorder]:
    """Return one run of every kind that there is."""
    failed = error_info(ToolFailedError("the disk is full", tool_id="tool.echo"))
    side_by_side = ["tool.echo", "tool.time", "tool.kv.put"]
    asks_for_echo = {"tool.echo": ASKS}
    asks_for_two = {"tool.echo": ASKS, "tool.kv.put": ASKS}
    return {
        "queued": Recorder(),
        "completed": Recorder('a  \U0001f600\n"b"').start().model("bye"),
        "with_tools": Recorder()
        .start()
        .model("", ["tool.echo"])
        .tools([{"a": [1, 1.5, None, "ü"]}])
        .model("it is so"),
        "tools_in_parallel": Recorder()
        .start()
        .model("", side_by_side)
        .tools(["one"])
        .tools([failed, 3])
        .model("", ["tool.time"])
        .tools(["late"])
        .model("bye"),
        "refused_tools": Recorder(tool_denymap=["tool.time"])
        .start(specs=entitled_to("tool.echo", "tool.time"))
        .model("", ["tool.kv.put", "tool.time", "tool.unknown", "tool.echo"])
        .tools(["fine"])
        .model("well"),
        "only_refused": Recorder(tool_allowlist=[]).start().model("", ["tool.echo"]).model("ok"),
        "two_attempts": Recorder()
        .start()
        .model("", ["tool.echo", "tool.kv.put"])
        .start("wrk_2", 2500, entitled_to("tool.time"))
        .tools(["one", "two"])
        .model("", ["tool.echo"])
        .model("bye"),
        "fenced_again": Recorder().start().start(ms=1600).model("bye"),
        "interrupted": Recorder()
        .start()
        .model("", ["tool.echo", "tool.kv.put"])
        .start("wrk_2", 2500)
        .tools(["one"], interrupted=True),
        "interrupted_at_once": Recorder()
        .start()
        .model("", ["tool.kv.put"])
        .start("wrk_2", 2500)
        .tools([], interrupted=True),
        "model_failed": Recorder().start().model(fails=True),
        "timed_out": Recorder(timeout_ms=100).start().model("", ["tool.echo"], ms=100),
        "stopped_by_its_clock": Recorder(timeout_ms=100).start().stopped(99),
        "late_for_its_tools": Recorder(timeout_ms=100)
        .start()
        .model("", ["tool.echo"], ms=50)
        .tools(["late"], ms=60),
        "max_steps": Recorder(max_steps=2)
        .start()
        .model("", ["tool.echo", "tool.time"])
        .tools(["one"]),
        "dry_run": Recorder(dry_run=True).start(),
        "canceled_queued": Recorder().cancel("why not"),
        "canceled_held": Recorder().start().cancel(held=True).stopped(),
        "canceled_beside_a_result": Recorder()
        .start()
        .model("", ["tool.echo"])
        .cancel("enough", held=True)
        .tools(["too late"]),
        "canceled_before_an_attempt": Recorder().start().cancel(held=True).start("wrk_2"),
        "broken": Recorder().start().broke(),
        "approved": Recorder(timeout_ms=1_000)
        .start()
        .model("", ["tool.echo"], policies=asks_for_echo)
        .decide("approve", "go on")
        .start("wrk_2")
        .tools(["fine"])
        .model("bye"),
        "rejected": Recorder()
        .start()
        .model("", ["tool.echo"], policies=asks_for_echo)
        .decide("reject", "not \U0001f600 today")
        .start("wrk_2")
        .model("well"),
        "approval_expired": Recorder()
        .start()
        .model("", ["tool.echo", "tool.kv.put"], policies=asks_for_two)
        .expire()
        .start("wrk_2")
        .model("well"),
        "decided_too_late": Recorder()
        .start()
        .model("", ["tool.echo"], policies=asks_for_echo)
        .decide("approve", ms=60_000)
        .start("wrk_2")
        .model("well"),
        "approved_beside_a_tool": Recorder()
        .start()
        .model("", side_by_side, policies=asks_for_two)
        .decide("approve", ms=4)
        .tools(["two"])
        .tools(["one"])
        .decide("reject")
        .start("wrk_2")
        .model("bye"),
        "approved_and_gone": Recorder()
        .start()
        .model("", ["tool.time", "tool.echo"], policies=asks_for_echo)
        .decide("approve", ms=4)
        .start("wrk_2", specs=entitled_to("tool.time"))
        .tools(["two"])
        .model("bye"),
        "approved_beside_a_result": Recorder()
        .start(specs=entitled_to("tool.time", "tool.echo"))
        .model("", ["tool.time", "tool.echo", "tool.kv.put"], policies=asks_for_echo)
        .decide("approve", ms=4)
        .tools(["two"])
        .tools(["one"])
        .model("bye"),
        "blocked_tool": Recorder()
        .start()
        .model("", ["tool.echo", "tool.time"], policies={"tool.time": BLOCKS})
        .tools(["one"])
        .model("bye"),
        "canceled_waiting": Recorder()
        .start()
        .model("", ["tool.echo"], policies=asks_for_echo)
        .cancel("enough"),
        "failed_with_an_approval": Recorder(max_steps=2)
        .start()
        .model("", ["tool.echo", "tool.time"], policies=asks_for_echo),
        "clock_ran_back": Recorder().start(ms=500).model("", ["tool.echo"], ms=-400).tools(["x"]),
    }
