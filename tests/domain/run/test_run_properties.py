"""Any sequence of commands keeps a run's rules, and its log says all there is to know."""

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agentos.domain.aggregate import FoldError, read_events
from agentos.domain.errors import InvalidStateTransitionError, ToolFailedError
from agentos.domain.log import Recorded
from agentos.domain.run.advance import Plan, Work, advance, error_info
from agentos.domain.run.approvals import Decision
from agentos.domain.run.approving import decide_approval, expire_approvals
from agentos.domain.run.events import (
    FINAL_TYPES,
    AnswerMessage,
    CallInAnswer,
    CallPolicy,
    Output,
    ToolCallApprovalRequired,
    ToolCallApproved,
    ToolCallCompleted,
    ToolCallRejected,
    ToolCallRequested,
)
from agentos.domain.run.run import Run, run_ref
from tests.domain.given import (
    ASKS,
    BLOCKS,
    T0,
    Ids,
    answer,
    created,
    moment,
    plan_of,
    result,
    spec,
    state,
    written,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | st.sampled_from(
    ["\u2028", '"', "\\u0000", "\0", "😀\n", "\r"]
)
TOOLS = ["tool.echo", "tool.time", "tool.unknown"]
FAILED = error_info(ToolFailedError("no"))


class AnyRun(RuleBasedStateMachine):
    """Drives a run as executors, a canceller and people who approve might, in any order."""

    run: Run
    plan: Plan

    @initialize(text=TEXT, max_steps=st.integers(1, 6), timeout=st.integers(1, 5000))
    def begin(self, text: str, max_steps: int, timeout: int) -> None:
        self.now, self.ids, self.position = T0, Ids(), 0
        self.records: list[Recorded] = []
        self.work = Work()
        self.decided: dict[str, str] = {}
        self.run = Run(run_ref("tnt_a", "run_1"))
        first = created(text, max_steps=max_steps, timeout_ms=timeout)
        self.run.create("agt_a", first, moment(self.now, self.ids))
        self.plan = plan_of(self.run, spec("tool.echo"), spec("tool.time"), instructions=text)
        self.write()

    def write(self) -> None:
        if events := self.run.collect():
            self.position += 3
            self.records.append(written(self.run, events, self.position))

    @rule(ms=st.integers(-100, 1500) | st.just(60_000))
    def time_goes_on(self, ms: int) -> None:
        self.now += ms

    @precondition(lambda self: not self.run.is_final)
    @rule()
    def start(self) -> None:
        self.run.start("wrk_1", moment(self.now, self.ids))

    @precondition(lambda self: self.run.attempt > 0)
    @rule()
    def advance(self) -> None:
        self.work = advance(self.run, self.plan, moment(self.now, self.ids))
        assert self.work.is_nothing == (self.run.is_final or self.run.is_waiting)
        assert not self.run.approvals.granted or self.run.is_final

    @rule()
    def commit(self) -> None:
        self.write()

    @precondition(lambda self: self.run.open_model and not self.run.is_final)
    @rule(
        text=TEXT,
        tools=st.lists(st.sampled_from(TOOLS), max_size=3),
        fails=st.booleans(),
        policies=st.dictionaries(st.sampled_from(TOOLS), st.sampled_from([ASKS, BLOCKS])),
    )
    def the_model_answers(
        self, text: str, tools: list[str], fails: bool, policies: dict[str, CallPolicy]
    ) -> None:
        assert self.run.open_model is not None
        calls = [(self.ids("tcall"), tool) for tool in tools]
        error = FAILED if fails and not tools else None
        completed = answer(self.run.open_model[0], text, calls, error=error, policies=policies)
        self.run.end_model(completed, moment(self.now, self.ids))

    @precondition(lambda self: self.run.open_tools and not self.run.is_final)
    @rule(which=st.integers(0, 9), output=TEXT, fails=st.booleans())
    def a_tool_answers(self, which: int, output: str, fails: bool) -> None:
        call_id = sorted(self.run.open_tools)[which % len(self.run.open_tools)]
        completed = result(call_id, output, error=FAILED if fails else None)
        self.run.end_tool(completed, moment(self.now, self.ids))

    @precondition(lambda self: self.run.approvals.all)
    @rule(which=st.integers(0, 9), decision=st.sampled_from(["approve", "reject"]), why=TEXT)
    def a_person_decides(self, which: int, decision: Decision, why: str) -> None:
        asked = list(self.run.approvals.all)
        approval_id = asked[which % len(asked)]
        at = moment(self.now, self.ids)
        before = self.run.sequence
        open_to_all = not self.run.is_final and self.run.cancel is None
        try:
            decide_approval(self.run, approval_id, decision, "usr_boss", why, at)
        except InvalidStateTransitionError:
            assert not open_to_all
            assert self.run.sequence == before
            return
        status = self.run.approvals.all[approval_id].status
        first = self.decided.setdefault(approval_id, status)
        assert status == first
        assert status in ({"approve": "approved", "reject": "rejected"}[decision], "expired") or (
            self.run.sequence == before
        )

    @rule()
    def time_to_decide_is_over(self) -> None:
        expire_approvals(self.run, moment(self.now, self.ids))
        for approval in self.run.approvals.all.values():
            if approval.status == "expired":
                assert self.decided.setdefault(approval.approval_id, "expired") == "expired"

    @precondition(lambda self: not self.run.is_final)
    @rule(reason=TEXT)
    def cancel(self, reason: str) -> None:
        self.run.request_cancel("usr_a", reason, moment(self.now, self.ids))

    @precondition(lambda self: self.run.is_final)
    @rule()
    def nothing_follows(self) -> None:
        before = self.run.sequence
        for command in (self.start, self.cancel_again, self.complete):
            try:
                command()
            except InvalidStateTransitionError:
                continue
            raise AssertionError("something followed the final event")
        assert self.run.sequence == before
        assert advance(self.run, self.plan, moment(self.now, self.ids)).is_nothing

    def cancel_again(self) -> None:
        self.run.request_cancel("usr_a", None, moment(self.now, self.ids))

    def complete(self) -> None:
        self.run.complete(Output(text="x"), moment(self.now, self.ids))

    @invariant()
    def the_log_has_no_gap_and_at_most_one_end(self) -> None:
        names = [name for record in self.records for name in record.types]
        expected = 1
        for record in self.records:
            assert record.first_sequence == expected
            expected = record.last_sequence + 1
        finals = [name for name in names if name in FINAL_TYPES]
        assert len(finals) <= 1
        assert not finals or names[-1] == finals[0]
        assert names.count("agentos.run.created") == 1
        if not self.run.staged:
            assert self.run.is_final == bool(finals)
        assert self.run.steps_total >= self.run.model_calls_total
        assert self.run.steps_total <= self.plan.max_steps

    @invariant()
    def a_call_is_made_once_and_what_must_be_approved_only_then(self) -> None:
        events = [e for record in self.records for e in read_events(record, Run.PAYLOADS)]
        asked: dict[str, str] = {}
        yes: set[str] = set()
        made: set[str] = set()
        for said in (event.payload for event in events):
            if isinstance(said, ToolCallApprovalRequired):
                asked[said.tool_call_id] = said.approval_id
            elif isinstance(said, ToolCallApproved | ToolCallRejected):
                assert asked[said.tool_call_id] == said.approval_id
                assert said.tool_call_id not in made
                if isinstance(said, ToolCallApproved):
                    yes.add(said.tool_call_id)
            elif isinstance(said, ToolCallRequested):
                assert said.tool_call_id not in asked or said.tool_call_id in yes
                assert said.tool_call_id not in made
                made.add(said.tool_call_id)

    @invariant()
    def only_the_time_without_anything_to_do_is_waited(self) -> None:
        """Told again from the events alone: asked for, not decided, and no call open."""
        events = [e for record in self.records for e in read_events(record, Run.PAYLOADS)]
        waited = last = 0
        asked: set[str] = set()
        busy: set[str] = set()
        for event in events:
            said = event.payload
            waited += event.time - last if asked and not busy else 0
            last = event.time
            if isinstance(said, ToolCallApprovalRequired):
                asked.add(said.tool_call_id)
            elif isinstance(said, ToolCallApproved):
                asked.discard(said.tool_call_id)
                busy.add(said.tool_call_id)
            elif isinstance(said, ToolCallRequested):
                busy.add(said.tool_call_id)
            elif isinstance(said, ToolCallCompleted):
                asked.discard(said.tool_call_id)
                busy.discard(said.tool_call_id)
        if not self.run.staged:
            assert waited == self.run.waited_ms

    @invariant()
    def folding_gives_the_live_object(self) -> None:
        if self.run.staged:
            return
        whole = Run(self.run.ref).fold(self.records)
        cut = len(self.records) // 2
        parts = Run(self.run.ref).fold(self.records[:cut]).fold(self.records)
        assert whole == parts
        assert state(whole) == state(self.run)
        assert whole.view() == self.run.view()
        if not whole.is_final and whole.attempt:
            one = advance(whole, self.plan, moment(self.now, Ids(7)))
            other = advance(parts, self.plan, moment(self.now, Ids(7)))
            assert one == other
            assert whole == parts


TestAnyRun = AnyRun.TestCase
TestAnyRun.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


@given(st.lists(TEXT, max_size=5), TEXT)
def test_arbitrary_text_comes_back_from_the_log(texts: list[str], key: str) -> None:
    live = Run(run_ref("tnt_a", "run_1"))
    at = moment()
    live.create("agt_a", created(key), at)
    live.start("wrk_1", at)
    for text in texts:
        live.begin_model("builtin/echo", 1, False, at)
        assert live.open_model is not None
        calls = [
            CallInAnswer(tool_call_id="t", tool_id="tool.a", name="n", arguments={key: [text]})
        ]
        said = AnswerMessage(content=text, tool_calls=calls)
        completed = answer(live.open_model[0]).model_copy(update={"message": said})
        live.end_model(completed, at)
    live.complete(Output(text=key), at)
    record = written(live, live.collect(), 1)
    assert state(Run(live.ref).fold([record])) == state(live)
    assert len(record.lines()) == len(record.types)


@given(st.integers(1, 6), st.integers(1, 6))
def test_a_log_with_a_gap_or_a_repeat_does_not_fold(start: int, jump: int) -> None:
    live = Run(run_ref("tnt_a", "run_1"))
    live.create("agt_a", created(), moment())
    first = written(live, live.collect(), 1)
    for _ in range(start + jump):
        live.start("wrk_1", moment())
    events = live.collect()
    run = Run(live.ref).fold([first])
    bad = events[jump:]
    try:
        run.fold([written(live, bad, 2)])
    except FoldError:
        return
    raise AssertionError("a gap was folded")
