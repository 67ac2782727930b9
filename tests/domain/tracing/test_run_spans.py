"""The spans of recorded runs of every kind."""

import pytest

from agentos.domain.aggregate import Moment, read_events
from agentos.domain.envelope import NO_TRACE, Event, Origin, Trace
from agentos.domain.errors import ToolFailedError
from agentos.domain.run.advance import error_info
from agentos.domain.run.events import ForkedFrom, StepCompleted, StepStarted
from agentos.domain.run.run import Run, run_ref
from agentos.domain.tracing.ids import NO_PARENT, span_of
from agentos.domain.tracing.run_spans import RUN_FACTS, RunSpans
from agentos.domain.tracing.span import Span
from tests.domain.given import TRACE, created, moment
from tests.domain.replay.recorder import Recorder, kinds_of_runs

PARENT = "b7ad6b7169203331"
KINDS = sorted(kinds_of_runs())
FAILED = error_info(ToolFailedError("no"))


def events_of(made: Recorder) -> list[list[Event]]:
    """Return a recorded run's events, commit by commit."""
    return [read_events(record, Run.PAYLOADS) for record in made.records]


def spans_of(commits: list[list[Event]]) -> list[Span]:
    run = RunSpans(run_ref("tnt_a", "run_1"))
    return [span for commit in commits for span in run.take(facts(commit))]


def facts(events: list[Event]) -> list[Event]:
    return [event for event in events if event.type in RUN_FACTS]


@pytest.mark.parametrize("kind", KINDS)
def test_every_run_that_ended_is_one_tree(kind: str) -> None:
    made = kinds_of_runs()[kind]
    commits = events_of(made)
    spans = spans_of(commits)
    if not made.run.is_final:
        assert not [s for s in spans if s.name.startswith("invoke_agent")]
        return
    (agent,) = [s for s in spans if s.name.startswith("invoke_agent")]
    steps = [s for s in spans if s is not agent]
    assert spans[-1] is agent  # a parent is known once its children are
    assert agent.parent_span_id == PARENT
    assert {s.parent_span_id for s in steps} <= {agent.span_id}
    assert len({s.span_id for s in spans}) == len(spans)
    begun = [
        e
        for n, commit in enumerate(commits)
        for e in commit
        if n and isinstance(e.payload, StepStarted)
    ]
    assert sorted(s.span_id for s in steps) == sorted(e.trace.span_id for e in begun)
    assert all(agent.start_ms <= s.start_ms <= s.end_ms <= agent.end_ms for s in steps)
    assert {s.trace_id for s in spans} == {TRACE[3:35]}


@pytest.mark.parametrize("kind", KINDS)
def test_it_does_not_matter_where_the_commits_are_cut(kind: str) -> None:
    commits = events_of(kinds_of_runs()[kind])
    assert spans_of(commits) == spans_of([commits[0], *([e] for c in commits[1:] for e in c)])


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_that_was_said_is_in_a_span(kind: str) -> None:
    made = kinds_of_runs()[kind]
    text = repr(spans_of(events_of(made)))
    for secret in ("hello", "be kind", "done", "fine", "usr_anna"):
        assert secret not in text


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_of_before_is_told_too(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its events are all in its caller's span: the run is a part of that."""
    monkeypatch.setattr(Recorder, "parent_span_id", None)
    made = kinds_of_runs()[kind]
    commits = events_of(made)
    assert {e.trace for c in commits for e in c} == {Trace(TRACE, TRACE[36:52])}
    for span in spans_of(commits):
        if span.name.startswith("invoke_agent"):
            assert (span.span_id, span.parent_span_id) == (span_of("run_1"), TRACE[36:52])
        else:
            assert span.parent_span_id == span_of("run_1")


def test_what_the_attributes_say() -> None:
    made = Recorder()
    made.start().model("", ["tool.echo", "tool.time"]).tools(["x", FAILED]).model()
    spans = spans_of(events_of(made))
    names = [span.name for span in spans]
    assert names == [
        "step builtin/echo",
        "execute_tool tool.echo",
        "execute_tool tool.time",
        "step builtin/echo",
        "invoke_agent agt_a",
    ]
    agent, tool = spans[-1], spans[1]
    assert agent.attributes["gen_ai.operation.name"] == "invoke_agent"
    assert agent.attributes["gen_ai.usage.input_tokens"] == 6
    assert agent.attributes["gen_ai.usage.output_tokens"] == 8
    assert agent.attributes["agentos.cost_usd"] == 0.5
    assert agent.attributes["agentos.run.steps"] == 4
    assert [mark.attributes for mark in agent.marks] == [{"agentos.run.attempt": 1}]
    assert agent.error is None
    assert tool.attributes["gen_ai.tool.name"] == "tool.echo"
    assert str(tool.attributes["gen_ai.tool.call.id"]).startswith("tcall_")
    assert tool.attributes["gen_ai.agent.id"] == "agt_a"


def test_a_step_in_hand_ends_with_its_run() -> None:
    made = Recorder().start().cancel()
    spans = spans_of(events_of(made))
    assert [(s.name.split()[0], s.error) for s in spans] == [
        ("step", "canceled"),
        ("invoke_agent", None),
    ]
    assert spans[-1].attributes["agentos.run.status"] == "canceled"


def test_a_failure_says_its_code() -> None:
    spans = spans_of(events_of(Recorder().start().model(fails=True)))
    assert [s.error for s in spans] == ["tool_failed", "tool_failed"]


def test_a_run_without_a_trace_has_one_of_its_own() -> None:
    at = moment()
    nowhere = Moment(at.now_ms, at.new_id, Origin(NO_TRACE, at.origin.principal))
    run = Run(run_ref("tnt_a", "run_1"))
    run.create("agt_a", created().model_copy(update={"parent_span_id": NO_PARENT}), nowhere)
    run.finish_cancel(at)
    first, last = run.collect()
    (span,) = spans_of([[first], [last]])
    assert int(span.trace_id, 16)
    assert span.parent_span_id is None


def test_a_trace_that_is_not_sampled_is_not_kept() -> None:
    at = moment()
    unkept = Moment(at.now_ms, at.new_id, Origin(TRACE[:-2] + "00", at.origin.principal))
    run = Run(run_ref("tnt_a", "run_1"))
    run.create("agt_a", created().model_copy(update={"parent_span_id": PARENT}), unkept)
    run.finish_cancel(at)
    first, last = run.collect()
    assert spans_of([[first], [last]]) == []


def test_the_past_of_a_fork_is_nobodys_work_again() -> None:
    past = [
        ("stp_old", StepStarted(step_kind="tool", name="tool.echo")),
        ("stp_old", StepCompleted(step_kind="tool", name="tool.echo", status="ok", duration_ms=1)),
    ]
    fork = ForkedFrom(run_id="run_0", from_step=2)
    spans = spans_of(events_of(Recorder(fork=fork, past=past).start().model()))
    assert [s.name for s in spans] == ["step builtin/echo", "invoke_agent agt_a"]


def test_a_run_whose_beginning_is_gone_has_no_spans() -> None:
    commits = events_of(Recorder().start().model())
    assert spans_of(commits[1:]) == []
