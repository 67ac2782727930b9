"""Counts that are the library's, without its locks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram

from agentos.gateways.http.series import PlainHistogram

BOUNDS = (0.0001, 0.5, 1, 2.5, 10)
VALUES = st.floats(min_value=0, max_value=200, allow_nan=False) | st.sampled_from(BOUNDS)


@given(st.lists(VALUES, max_size=50))
def test_it_counts_as_the_library_does(values: list[float]) -> None:
    registry, theirs = CollectorRegistry(), CollectorRegistry()
    expected = Histogram("x", "x", buckets=BOUNDS, registry=theirs)
    ours = PlainHistogram("x", "x", BOUNDS, registry)
    for value in values:
        expected.observe(value)
        ours.observe(value)
    for bound in ("0.0001", "0.5", "1.0", "2.5", "10.0", "+Inf"):
        mine = registry.get_sample_value("x_bucket", {"le": bound})
        assert mine is not None
        assert mine == theirs.get_sample_value("x_bucket", {"le": bound})
    assert registry.get_sample_value("x_count") == len(values)
    assert registry.get_sample_value("x_sum") == pytest.approx(sum(values))
