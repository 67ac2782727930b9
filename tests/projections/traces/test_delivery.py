"""Batches to a collector that has moods."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from agentos.domain.tracing.span import Sent, Span
from agentos.projections.traces.delivery import Delivery
from agentos.projections.traces.metrics import TracerMetrics

NOW = 1_800_000_000_000
HOUR = 3_600_000
SPAN = Span(
    trace_id="4bf92f3577b34da6a3ce929d0e0e4736",
    span_id="00f067aa0ba902b7",
    parent_span_id=None,
    name="chat m",
    kind="client",
    start_ms=NOW - 50,
    end_ms=NOW,
    attributes={},
)


class MoodySink:
    """Answers as it is told, then takes everything."""

    def __init__(self, clock: "HandClock", *answers: Sent) -> None:
        self.answers = list(answers)
        self.sent: list[Sequence[Span]] = []
        self.clock = clock
        self.each_ms = 0

    async def send(self, spans: Sequence[Span]) -> Sent:
        """Take a batch, which takes a while."""
        self.sent.append(spans)
        self.clock.now += self.each_ms
        return self.answers.pop(0) if self.answers else Sent("sent")


class HandClock:
    """A clock that a test moves."""

    now = NOW

    def now_ms(self) -> int:
        """Return the time."""
        return self.now


class Given:
    """A delivery to a sink with moods."""

    def __init__(self, *answers: Sent, batch: int = 512) -> None:
        self.clock = HandClock()
        self.sink = MoodySink(self.clock, *answers)
        self.metrics = TracerMetrics()
        self.delivery = Delivery(self.sink, self.clock, self.metrics, batch=batch, pause_s=0.0001)

    def figure(self, name: str, **labels: str) -> float | None:
        """Return a figure."""
        return self.metrics.registry.get_sample_value(name, labels)

    def dropped(self, reason: str) -> float | None:
        """Return how many spans were dropped for a reason."""
        return self.figure("agentos_otel_spans_dropped_total", reason=reason)


async def test_batches_have_a_size() -> None:
    given = Given(batch=2)
    await given.delivery.deliver([SPAN] * 5)
    assert [len(spans) for spans in given.sink.sent] == [2, 2, 1]
    assert given.figure("agentos_otel_spans_sent_total") == 5


async def test_nothing_is_no_request() -> None:
    given = Given()
    await given.delivery.deliver([])
    assert given.sink.sent == []


async def test_the_same_batch_goes_until_it_is_taken() -> None:
    given = Given(*[Sent("away", "status 503")] * 4)
    await given.delivery.deliver([SPAN])
    assert given.sink.sent == [[SPAN]] * 5
    assert given.figure("agentos_otel_spans_sent_total") == 1
    assert given.figure("agentos_otel_collector_up") == 1


async def test_a_collector_that_is_away_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    given = Given(*[Sent("away", "status 503")] * 4)
    caplog.set_level("INFO")
    await given.delivery.deliver([SPAN])
    said = [record.message for record in caplog.records]
    assert said == [
        "the collector does not take spans: status 503; they wait in the log",
        "the collector takes spans again",
    ]


async def test_what_is_refused_blocks_nobody() -> None:
    given = Given(Sent("refused", "status 400"), batch=1)
    await given.delivery.deliver([SPAN, replace(SPAN, name="chat n")])
    assert [spans[0].name for spans in given.sink.sent] == ["chat m", "chat n"]
    assert given.dropped("refused") == 1
    assert given.figure("agentos_otel_spans_sent_total") == 1


async def test_what_a_collector_did_not_keep_is_counted() -> None:
    given = Given(Sent("sent", rejected=2))
    await given.delivery.deliver([SPAN] * 3)
    assert given.figure("agentos_otel_spans_sent_total") == 1
    assert given.dropped("rejected") == 2


async def test_what_is_over_an_hour_old_is_not_sent() -> None:
    given = Given()
    old = replace(SPAN, end_ms=NOW - HOUR - 1)
    await given.delivery.deliver([old, replace(SPAN, end_ms=NOW - HOUR), old])
    assert [len(spans) for spans in given.sink.sent] == [1]
    assert given.dropped("too_old") == 2


async def test_what_grows_old_while_the_collector_is_away_is_given_up() -> None:
    given = Given(*[Sent("away")] * 100)
    given.sink.each_ms = HOUR // 3
    await given.delivery.deliver([SPAN])
    assert len(given.sink.sent) == 4
    assert given.dropped("too_old") == 1
    assert given.figure("agentos_otel_collector_up") == 0


async def test_a_collector_may_say_when(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr("agentos.projections.traces.delivery.asyncio.sleep", sleep)
    given = Given(Sent("away", wait_s=7.0), Sent("away", wait_s=1e9), Sent("away"))
    await given.delivery.deliver([SPAN])
    assert slept[:2] == [7.0, 300.0]
    assert slept[2] < 0.01
