"""Times: there and back, and nothing without an offset."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentos.domain.times import rfc3339, to_ms


def test_milliseconds_and_z_are_always_written() -> None:
    assert rfc3339(0) == "1970-01-01T00:00:00.000Z"
    assert rfc3339(1_795_256_136_120) == "2026-11-21T10:15:36.120Z"


@given(st.integers(0, 253_402_300_799_999))
def test_a_time_comes_back(ms: int) -> None:
    assert to_ms(rfc3339(ms)) == ms


@given(st.integers(0, 10**13), st.integers(0, 10**13))
def test_times_sort_as_text(one: int, other: int) -> None:
    assert (rfc3339(one) < rfc3339(other)) == (one < other)


def test_an_offset_is_heeded() -> None:
    assert to_ms("1970-01-01T01:00:00.001+01:00") == 1


@pytest.mark.parametrize("bad", ["", "yesterday", "2026-11-21T10:15:36", "2026-13-01T00:00:00Z"])
def test_what_is_no_moment_is_refused(bad: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        to_ms(bad)
