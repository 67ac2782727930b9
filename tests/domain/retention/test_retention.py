"""A tenant's retention: one plan after the other, and what each leaves in the log."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentos.domain.aggregate import FoldError, next_event
from agentos.domain.errors import CursorExpiredError
from agentos.domain.log import Recorded
from agentos.domain.retention.retention import (
    Archive,
    Gone,
    RetentionOf,
    RetentionPlanned,
    Stream,
    gone_of,
    require_seen,
    retention_ref,
)
from agentos.domain.retention.rules import KINDS, Kind
from tests.domain.given import moment, written

REF = retention_ref("tnt_a")
PLANS = st.lists(
    st.tuples(
        st.sampled_from(KINDS), st.integers(1, 10**6), st.integers(1, 9), st.integers(1, 999)
    ),
    max_size=6,
)


def planned(kind: Kind, position: int, line: int, items: int, gone: dict[str, Gone]) -> object:
    return RetentionPlanned(
        plan_id="ret_1",
        kind=kind,
        age_ms=1,
        before="2026-11-25T10:15:36.002Z",
        streams=[Stream(kind="run", id="run_1", through=position)],
        items=items,
        commits=items * 2,
        events=items * 3,
        position=position,
        line=line,
        archive=Archive(name="a.log.gz", sha256="0" * 64, bytes=1, digest="1" * 64),
        gone=gone,
    )


def history(plans: list[tuple[Kind, int, int, int]]) -> tuple[RetentionOf, list[Recorded]]:
    """Return what a tenant's retention is after those plans, and its commits."""
    state = RetentionOf(REF)
    records: list[Recorded] = []

    def write(events: list[object], base: int = 0) -> None:
        records.append(written(state, events, 100 + len(records), base))  # type: ignore[arg-type]
        state.take(records[-1:])

    for kind, position, line, items in plans:
        plan = planned(kind, position, line, items, dict(state.gone))
        write([next_event(state, plan, moment())])  # type: ignore[arg-type]
        write(list(state.begin(moment())), state.plan_position)
        write(list(state.finish(moment())), state.plan_position)
    return state, records


@given(PLANS)
def test_the_last_commit_says_all_that_is_gone(plans: list[tuple[Kind, int, int, int]]) -> None:
    state, records = history(plans)
    for kind in KINDS:
        own = [plan for plan in plans if plan[0] == kind]
        gone = gone_of(records[-1] if records else None, kind)
        assert gone.items == sum(items for *_, items in own)
        assert gone.commits == 2 * gone.items
        assert (gone.position, gone.line) == max([(p, n) for _, p, n, _ in own], default=(0, 0))
    assert state.phase == "idle"


@given(PLANS.filter(bool), st.integers(0, 2))
def test_it_goes_on_from_its_plan(plans: list[tuple[Kind, int, int, int]], left: int) -> None:
    """Whatever was the last commit, the plan and it are enough."""
    _, records = history(plans)
    records = records[: len(records) - left]
    whole, last = RetentionOf(REF).take(records), records[-1]
    after = last.base - 1 if last.base else last.position - 1
    again = RetentionOf(REF).take([r for r in records if r.position > after])
    assert (again.phase, again.plan, again.gone) == (whole.phase, whole.plan, whole.gone)
    assert (again.position, again.sequence) == (whole.position, whole.sequence)


@given(
    PLANS.filter(bool),
    st.tuples(st.integers(0, 10**6 + 1), st.integers(0, 10)),
)
def test_a_cursor_goes_on_exactly_if_nothing_behind_it_went(
    plans: list[tuple[Kind, int, int, int]], cursor: tuple[int, int]
) -> None:
    _, records = history([("runs", *rest) for _, *rest in plans])  # type: ignore[misc]
    gone = gone_of(records[-1], "runs")
    if any((position, line) > cursor for _, position, line, _ in plans):
        with pytest.raises(CursorExpiredError) as refused:
            require_seen(cursor, gone)
        assert refused.value.details["resume_after"] == f"{gone.position}-{gone.line}"
    else:
        require_seen(cursor, gone)


def test_what_is_begun_counts_as_gone_at_once() -> None:
    _, records = history([("runs", 41, 2, 1)])
    assert gone_of(records[0], "runs") == Gone()
    assert gone_of(records[1], "runs") == gone_of(records[2], "runs")
    assert gone_of(records[1], "runs").position == 41


def test_nothing_begins_without_a_plan_or_ends_without_a_beginning() -> None:
    state = RetentionOf(REF)
    for decide in (state.begin, state.finish):
        with pytest.raises(FoldError):
            decide(moment())
    _, records = history([("runs", 41, 2, 1)])
    with pytest.raises(FoldError):
        RetentionOf(REF).take(records[1:2])
    with pytest.raises(FoldError):
        RetentionOf(REF).take(records[:1]).finish(moment())
