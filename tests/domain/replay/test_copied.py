"""A run that was copied from a peer is decided again as well as one of this node."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentos.domain.aggregate import Moment
from agentos.domain.federation.remote import RemoteRun, RunLinked, remote_ref
from agentos.domain.log import Recorded
from agentos.domain.replay.copied import copied_run, replayed_copy
from agentos.domain.replay.replay import Replayed
from tests.domain.given import T0, moment, written
from tests.domain.replay.recorder import Recorder, kinds_of_runs

LINKED = RunLinked(
    stack_id="stk_b",
    forward_id="fwd_1",
    agent_id="agt_a",
    events_url="http://b.example/v1/runs/run_1/events",
    status="queued",
    created_at="2026-11-21T10:15:36.121Z",
    run_options={},
)


def copy_of(made: Recorder, batch: int = 3) -> tuple[RemoteRun, list[Recorded]]:
    """Return the copy of a run, so many lines at a time."""
    ref = made.run.ref
    remote = RemoteRun(remote_ref(ref.tenant_id, ref.aggregate_id))
    records = [written(remote, remote.link(LINKED, moment(T0)), 1)]
    remote.fold(records)
    lines = [line for record in made.records for line in record.lines()]
    for at in range(0, len(lines), batch):
        events = remote.copy(lines[at : at + batch], moment(T0))
        records.append(written(remote, events, len(records) + 1))
        remote.fold(records[-1:])
    return remote, records


def replayed(made: Recorder, batch: int = 3) -> Replayed:
    """Decide a run again from its copy."""
    remote, records = copy_of(made, batch)
    found = copied_run(remote, records)
    return replayed_copy(made.run.ref, lambda _: made.definition, found).result()


@pytest.mark.parametrize("kind", kinds_of_runs())
def test_every_kind_of_run_replays_equal_from_its_copy(kind: str) -> None:
    made = kinds_of_runs()[kind]
    result = replayed(made)
    assert result.first_difference is None
    assert result.events == sum(len(record.types) for record in made.records)


@given(st.integers(1, 20))
def test_how_it_was_copied_does_not_matter(batch: int) -> None:
    made = next(iter(kinds_of_runs().values()))
    assert replayed(made, batch) == replayed(made)


def test_the_lines_are_those_of_the_run() -> None:
    made = next(iter(kinds_of_runs().values()))
    remote, records = copy_of(made)
    lines = [line for record in copied_run(remote, records) for line in record.lines()]
    assert lines == [line for record in made.records for line in record.lines()]


def test_a_copy_that_was_not_begun_is_no_run() -> None:
    remote = RemoteRun(remote_ref("tnt_a", "run_1"))
    records = [written(remote, remote.link(LINKED, moment(T0)), 1)]
    assert copied_run(remote.fold(records), records) == []


class AtOnce(Recorder):
    """A run all of which happens within one millisecond."""

    def at(self, ms: int = 0) -> Moment:
        """Return the moment: time stands still."""
        return super().at(0)


def test_a_run_within_one_millisecond_is_told_apart() -> None:
    made = AtOnce().start().model("", ["tool.echo", "tool.time"]).tools(["x"]).tools(["y"])
    made.model("", ["tool.no", "tool.echo"]).tools(["z"]).model("done")
    assert replayed(made).first_difference is None


def test_a_line_that_was_changed_is_found() -> None:
    made = kinds_of_runs()["clock_ran_back"]
    remote, records = copy_of(made)
    found = copied_run(remote, records)
    changed = replace(found[1], body=found[1].body.replace(b"builtin/echo", b"builtin/ecno"))
    result = replayed_copy(
        made.run.ref, lambda _: made.definition, [found[0], changed, *found[2:]]
    ).result()
    assert not result.equal
