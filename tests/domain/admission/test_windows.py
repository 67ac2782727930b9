"""Calendar windows in UTC."""

from hypothesis import given
from hypothesis import strategies as st

from agentos.domain.admission.windows import SPANS, Span, window_end, window_start
from agentos.domain.times import rfc3339, to_ms

NOW = to_ms("2026-11-21T10:15:36.120Z")


def test_where_they_begin_and_end() -> None:
    spans: list[tuple[Span, str, str]] = [
        ("minute", "2026-11-21T10:15:00.000Z", "2026-11-21T10:16:00.000Z"),
        ("hour", "2026-11-21T10:00:00.000Z", "2026-11-21T11:00:00.000Z"),
        ("day", "2026-11-21T00:00:00.000Z", "2026-11-22T00:00:00.000Z"),
        ("month", "2026-11-01T00:00:00.000Z", "2026-12-01T00:00:00.000Z"),
    ]
    for span, start, end in spans:
        assert rfc3339(window_start(span, NOW)) == start
        assert rfc3339(window_end(span, NOW) or 0) == end
    assert window_start("ever", NOW) == 0
    assert window_end("ever", NOW) is None


@given(st.integers(0, 4_000_000_000_000), st.sampled_from(SPANS))
def test_a_moment_lies_in_its_window_and_windows_touch(time_ms: int, span: Span) -> None:
    start, end = window_start(span, time_ms), window_end(span, time_ms)
    assert start <= time_ms
    if end is not None:
        assert time_ms < end
        assert window_start(span, end) == end
        assert window_start(span, end - 1) == start
