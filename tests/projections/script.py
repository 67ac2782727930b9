"""Random histories of runs and agents, written as the domain writes them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from agentos.domain.agent.agent import Agent, Definition, agent_ref
from agentos.domain.aggregate import Moment
from agentos.domain.auth import PolicyContext, Principal
from agentos.domain.envelope import Event, Origin
from agentos.domain.log import Commit, Recorded, make_commit
from agentos.domain.run.events import (
    AnswerMessage,
    ErrorInfo,
    ModelCompleted,
    Output,
    PolicyOutcome,
    RouteTaken,
    RunCreated,
    StepCompleted,
    StepStarted,
    TokenUsage,
    ToolCallCompleted,
    ToolCallRequested,
)
from agentos.domain.run.run import Run, run_ref
from agentos.domain.subjects import StreamRef

ORIGIN = Origin("00-" + "a" * 32 + "-" + "b" * 16 + "-01", Principal(principal_id="usr_x"))
TENANT = "tnt_demo"


@dataclass(frozen=True)
class Move:
    """One thing that happens to one run; `more` puts it into the commit of the next."""

    run: int
    action: int
    number: float
    text: str
    more: bool


texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=8) | st.just(
    "nul\x00\\N\t\n"
)
moves = st.lists(
    st.builds(
        Move,
        run=st.integers(0, 3),
        action=st.integers(0, 11),
        number=st.floats(0, 1, allow_nan=False),
        text=texts,
        more=st.booleans(),
    ),
    max_size=40,
)
cuts = st.lists(st.integers(1, 6), max_size=40)


@dataclass
class Script:
    """What the moves make: the records in the log's order, and the aggregates folded along."""

    tenant_id: str = TENANT
    prefix: str = ""
    records: list[Recorded] = field(default_factory=list)
    runs: dict[int, Run] = field(default_factory=dict)
    agents: dict[int, Agent] = field(default_factory=dict)
    _now: int = 1_795_255_336_000
    _ids: int = 0

    def play(self, moves: Sequence[Move]) -> "Script":
        """Make all moves that the state allows."""
        for move in moves:
            if move.action == 11:
                self._agent(move)
            else:
                self._run(move)
        for index in list(self.runs):
            self._flush(index)
        return self

    def new_id(self, prefix: str) -> str:
        """Return the next id: the same on every play."""
        self._ids += 1
        return f"{prefix}_{self.prefix}{self._ids:08d}"

    def moment(self) -> Moment:
        """Return the next moment."""
        self._now += 7
        return Moment(self._now, self.new_id, ORIGIN)

    def write(self, commit: Commit) -> Recorded:
        """Put a commit behind the others; positions have gaps."""
        position = self.records[-1].position + 1 + len(self.records) % 2 if self.records else 1
        names = Commit.__dataclass_fields__
        values = {name: getattr(commit, name) for name in names}
        self.records.append(Recorded(**values, position=position))
        return self.records[-1]

    def _write_events(self, ref: StreamRef, events: Sequence[Event]) -> int:
        return self.write(make_commit(ref, events, self.new_id)).position

    def _agent(self, move: Move) -> None:
        ref = agent_ref(self.tenant_id, f"agt_{self.prefix}{move.run}")
        agent = self.agents.setdefault(move.run, Agent(ref))
        definition = Definition(
            name=f"a{move.text}", model_ref="builtin/echo", version=str(agent.sequence + 1)
        )
        at = self.moment()
        if agent.status is None:
            events = agent.register(definition, at)
        elif agent.status == "active" and move.more:
            events = agent.deprecate(at)
        else:
            events = agent.update(definition, at)
        self._write_events(ref, events)
        agent.fold([self.records[-1]])

    def _run(self, move: Move) -> None:
        run = self.runs.get(move.run)
        if run is None:
            run = Run(run_ref(self.tenant_id, self.new_id("run")))
            self.runs[move.run] = run
            run.create(f"agt_{move.run % 2}", created(move), self.moment())
        elif not run.is_final:
            self._act(run, move)
        if not move.more:
            self._flush(move.run)

    def _flush(self, index: int) -> None:
        run = self.runs[index]
        if events := run.collect():
            run.position = self._write_events(run.ref, events)

    def _act(self, run: Run, move: Move) -> None:
        at = self.moment()
        match move.action:
            case 0 | 1:
                run.start("wrk_1", at)
            case 2 | 3:
                if run.open_model is None:
                    run.begin_model("model\x00" + move.text, 1, False, at)
                else:
                    run.end_model(answered(run.open_model[0], move), at)
            case 4 | 5:
                call = self.new_id("tcall")
                run.begin_tool(requested(call, move), at)
            case 6 | 7:
                if run.open_tools:
                    run.end_tool(returned(next(iter(run.open_tools)), move), at)
                else:
                    run.refuse_tool(returned(self.new_id("tcall"), move), at)
            case 8:
                run.request_cancel("usr_x", None, at)
                if move.number > 0.5:
                    run.finish_cancel(self.moment())
            case 9:
                step = self.new_id("stp")
                plan = StepStarted(step_kind="plan", name="p")
                done = StepCompleted(step_kind="plan", name="p", status="ok", duration_ms=0)
                run.stage(at, plan, done, step_id=step)
            case _:
                self._finish(run, move, at)

    def _finish(self, run: Run, move: Move, at: Moment) -> None:
        if move.number < 0.3:
            run.complete(Output(text=move.text), at)
        elif move.number < 0.4:
            run.complete(None, at)
        elif move.number < 0.6:
            run.fail(failure(move), at)

    def folded(self) -> list[Run]:
        """Return the runs folded from the records alone."""
        refs = [run.ref for run in self.runs.values()]
        return [Run(ref).fold(r for r in self.records if r.ref == ref) for ref in refs]


def created(move: Move) -> RunCreated:
    """Return a run's first event, with labels for some."""
    context: dict[str, Any] = {"locale": "en-US"}
    if move.action % 2:
        context["labels"] = {"k": move.text, "text " + move.text: "v"}
    return RunCreated(
        input={"type": "text", "text": move.text},
        context=context,
        tooling={},
        run_options={"priority": "normal", "timeout_ms": 10**12, "x": move.number},
        principal=ORIGIN.principal,
        policy_context=PolicyContext(),
        agent_version="1",
        correlation_id="corr_1" if move.more else None,
    )


def answered(request_id: str, move: Move) -> ModelCompleted:
    """Return a model's result."""
    tokens = int(move.number * 1000)
    return ModelCompleted(
        request_id=request_id,
        model_ref="m",
        status="ok",
        usage=TokenUsage(input_tokens=tokens, output_tokens=1, total_tokens=tokens + 1),
        cost_usd=move.number / 3,
        latency_ms=1,
        policy_outcome=PolicyOutcome(),
        route=RouteTaken(backend="b", model="m", node="n"),
        message=AnswerMessage(content=move.text),
    )


def requested(call: str, move: Move) -> ToolCallRequested:
    """Return a tool call's intent."""
    return ToolCallRequested(
        tool_call_id=call, tool_id="tool.echo", input={"t": move.text}, timeout_ms=10
    )


def returned(call: str, move: Move) -> ToolCallCompleted:
    """Return a tool call's result."""
    return ToolCallCompleted(
        tool_call_id=call,
        tool_id="tool.echo",
        status="ok",
        output=move.text,
        duration_ms=int(move.number * 10),
        error=None,
    )


def failure(move: Move) -> ErrorInfo:
    """Return why a run failed."""
    details = {"n": move.number, "t": move.text, "big": 2**70}
    return ErrorInfo(code="timeout", message=move.text, retryable=move.more, details=details)


def cut(records: Sequence[Recorded], sizes: Sequence[int]) -> list[list[Recorded]]:
    """Return the records in batches of these sizes, the rest as one."""
    left, batches = list(records), []
    for size in sizes:
        batches.append(left[:size])
        left = left[size:]
    return [batch for batch in [*batches, left] if batch]
