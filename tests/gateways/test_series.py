"""Counts that are the library's, without its locks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from agentos.gateways.http.series import PlainCounter, PlainHistogram

BOUNDS = (0.0001, 0.5, 1, 2.5, 10)
VALUES = st.floats(min_value=0, max_value=200, allow_nan=False) | st.sampled_from(BOUNDS)


@given(st.lists(st.tuples(st.sampled_from("ab"), VALUES), max_size=50))
def test_a_histogram_counts_as_the_library_does(values: list[tuple[str, float]]) -> None:
    registry, theirs = CollectorRegistry(), CollectorRegistry()
    expected = Histogram("x", "x", ("who",), buckets=BOUNDS, registry=theirs)
    ours = PlainHistogram("x", "x", ("who",), BOUNDS, registry)
    for who, value in values:
        expected.labels(who).observe(value)
        ours.labels(who).observe(value)
    for who in {who for who, _ in values}:
        for bound in ("0.0001", "0.5", "1.0", "2.5", "10.0", "+Inf"):
            labels = {"le": bound, "who": who}
            mine = registry.get_sample_value("x_bucket", labels)
            assert mine is not None
            assert mine == theirs.get_sample_value("x_bucket", labels)
        for name in ("x_count", "x_sum"):
            mine = registry.get_sample_value(name, {"who": who})
            assert mine == pytest.approx(theirs.get_sample_value(name, {"who": who}))


@given(st.lists(st.tuples(st.sampled_from("ab"), VALUES), max_size=50))
def test_a_counter_counts_as_the_library_does(values: list[tuple[str, float]]) -> None:
    registry, theirs = CollectorRegistry(), CollectorRegistry()
    expected = Counter("x", "x", ("who",), registry=theirs)
    ours = PlainCounter("x", "x", ("who",), registry)
    for who, value in values:
        expected.labels(who).inc(value)
        ours.labels(who).inc(value)
    for who in "ab":
        mine = registry.get_sample_value("x_total", {"who": who})
        assert mine == pytest.approx(theirs.get_sample_value("x_total", {"who": who}))
    shown = generate_latest(registry).decode()
    assert "# TYPE x_total counter" in shown
    assert all(line in generate_latest(theirs).decode() for line in shown.splitlines())


def test_without_labels_there_is_one_series() -> None:
    registry = CollectorRegistry()
    PlainCounter("x", "x", (), registry).labels().inc(2)
    PlainHistogram("y", "y", (), BOUNDS, registry).labels().observe(3)
    assert registry.get_sample_value("x_total") == 2
    assert registry.get_sample_value("y_sum") == 3
