"""Span ids follow from ids, and a child stays in its parent's trace."""

import re

from hypothesis import given
from hypothesis import strategies as st

from agentos.domain.envelope import Trace
from agentos.domain.tracing.ids import NO_PARENT, SPAN_ID_PATTERN, child_of, span_of, trace_of_step

T, P, S = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", "b7ad6b7169203331"


@given(st.text())
def test_a_span_id_follows_from_an_id(an_id: str) -> None:
    found = span_of(an_id)
    assert re.match(SPAN_ID_PATTERN, found)
    assert found != NO_PARENT
    assert found == span_of(an_id)


@given(st.text(), st.text())
def test_no_two_ids_share_one(one: str, other: str) -> None:
    assert (span_of(one) == span_of(other)) is (one == other)


def test_a_child_keeps_trace_and_sampling() -> None:
    assert child_of(f"00-{T}-{P}-01", S) == f"00-{T}-{S}-01"
    assert child_of(f"00-{T}-{P}-00", S) == f"00-{T}-{S}-00"


def test_a_step_is_a_span_of_its_runs_trace() -> None:
    trace = trace_of_step(Trace(f"00-{T}-{P}-01", P), "stp_1")
    assert trace == Trace(f"00-{T}-{span_of('stp_1')}-01", span_of("stp_1"))
