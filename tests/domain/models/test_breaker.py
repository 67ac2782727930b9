"""The circuit breaker, with time as an argument."""

from collections.abc import Callable
from typing import Literal

from hypothesis import given
from hypothesis import strategies as st

from agentos.domain.models.breaker import Breaker
from agentos.domain.models.catalog import BreakerRule

RULE = BreakerRule(failures=3, window_ms=1_000, open_ms=500)


def opened(at: int = 0) -> Breaker:
    breaker = Breaker(RULE)
    for _ in range(3):
        assert breaker.admit(at)
        breaker.failed(at)
    assert breaker.state(at) == "open"
    return breaker


def test_so_many_failures_in_the_window_open_it() -> None:
    breaker = Breaker(RULE)
    breaker.failed(0)
    breaker.failed(10)
    assert breaker.admit(20)
    breaker.failed(20)
    assert not breaker.admit(21)


def test_failures_that_are_long_past_do_not_count() -> None:
    breaker = Breaker(RULE)
    breaker.failed(0)
    breaker.failed(0)
    breaker.failed(1_100)
    assert breaker.state(1_100) == "closed"


def test_a_few_failures_among_many_calls_do_not_open_it() -> None:
    breaker = Breaker(RULE)
    for number in range(100):
        breaker.succeeded(number)
    for number in range(50):
        breaker.failed(100 + number)
    assert breaker.state(150) == "closed"
    for number in range(50):
        breaker.failed(200 + number)
    assert breaker.state(250) == "open"


def test_it_lets_one_call_try_and_its_success_closes_it() -> None:
    breaker = opened()
    assert not breaker.admit(499)
    assert breaker.state(500) == "half_open"
    assert breaker.admit(500)
    assert not breaker.admit(501)
    breaker.succeeded(510)
    assert breaker.state(510) == "closed"
    assert breaker.admit(511)
    breaker.failed(512)
    breaker.failed(512)
    assert breaker.state(512) == "closed"


def test_a_trial_that_fails_opens_it_anew() -> None:
    breaker = opened()
    assert breaker.admit(500)
    breaker.failed(600)
    assert not breaker.admit(1_099)
    assert breaker.admit(1_100)


def test_a_trial_that_says_nothing_makes_room() -> None:
    breaker = opened()
    assert breaker.admit(500)
    breaker.gave_up()
    assert breaker.admit(501)
    assert not breaker.admit(1_000)
    assert breaker.admit(1_001)


def test_what_was_under_way_when_it_opened_changes_nothing() -> None:
    breaker = opened()
    breaker.succeeded(10)
    breaker.failed(20)
    assert breaker.state(20) == "open"
    assert breaker.admit(500)


def test_a_failed_probe_keeps_it_open() -> None:
    breaker = opened()
    breaker.still_down(400)
    assert not breaker.admit(899)
    assert breaker.admit(900)
    closed = Breaker(RULE)
    closed.still_down(0)
    assert closed.admit(1)


STEPS = st.lists(
    st.tuples(st.sampled_from(["ok", "bad", "gave_up", "probe"]), st.integers(0, 400)), max_size=60
)


@given(STEPS)
def test_whatever_happens_it_lets_a_call_through_again(
    steps: list[tuple[Literal["ok", "bad", "gave_up", "probe"], int]],
) -> None:
    breaker, now = Breaker(RULE), 0
    ends: dict[str, Callable[[int], None]] = {
        "ok": breaker.succeeded,
        "bad": breaker.failed,
        "gave_up": lambda _: breaker.gave_up(),
    }
    for what, later in steps:
        now += later
        if what == "probe":
            breaker.still_down(now)
        elif breaker.admit(now):
            assert breaker.state(now) != "open"
            ends[what](now)
    assert breaker.admit(now + RULE.open_ms)


@given(STEPS)
def test_half_open_lets_no_second_call_through(steps: list[tuple[str, int]]) -> None:
    breaker, now = opened(), 500
    assert breaker.admit(now)
    for _, later in steps:
        now += min(later, 1)
        if now - 500 < RULE.open_ms:
            assert not breaker.admit(now)
