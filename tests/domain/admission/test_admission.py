"""Admission: slots and rate, exact."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentos.domain.admission.admission import (
    BALANCE_EVERY,
    Admission,
    Decision,
    admission_ref,
)
from agentos.domain.admission.events import QuotaBalanced
from agentos.domain.log import Recorded
from agentos.domain.tenant.quotas import RunLimits
from tests.domain.given import T0, moment, state, types, written

OPEN = RunLimits()


class Desk:
    """An admission whose decisions are always written, at positions 10, 20, 30 …"""

    def __init__(self, limits: RunLimits = OPEN) -> None:
        self.limits = limits
        self.admission = Admission(admission_ref("tnt_a"))
        self.records: list[Recorded] = []

    def decide(self, asks: Sequence[str], free: Sequence[str] = (), now: int = T0) -> Decision:
        decision = self.admission.decide(asks, free, self.limits, moment(now))
        if decision.events:
            position = 10 * (len(self.records) + 1)
            base = self.admission.base
            self.records.append(written(self.admission, decision.events, position, base))
            self.admission.written(decision.events, position)
        return decision

    def granted(self, run_id: str, now: int = T0) -> bool:
        return run_id not in self.decide([run_id], now=now).refused


def test_a_slot_is_taken_and_given_back() -> None:
    desk = Desk()
    taken = desk.decide(["run_1", "run_2"])
    assert types(taken.events) == ["quota.reserved"]
    assert taken.events[0].payload.model_dump() == {
        "resource": "runs",
        "run_ids": ["run_1", "run_2"],
        "active": 2,
    }
    assert desk.admission.active == {"run_1": T0, "run_2": T0}
    freed = desk.decide([], ["run_1"])
    assert types(freed.events) == ["quota.released"]
    assert freed.events[0].payload.model_dump()["active"] == 1
    assert list(desk.admission.active) == ["run_2"]


def test_deciding_changes_nothing_before_it_is_written() -> None:
    desk = Desk()
    desk.decide(["run_1"])
    before = state(desk.admission) | {"active": dict(desk.admission.active)}
    desk.admission.decide(["run_2"], ["run_1"], OPEN, moment(T0 + 5))
    assert state(desk.admission) == before


def test_a_reservation_made_twice_is_one() -> None:
    desk = Desk(RunLimits(max_concurrent_runs=1))
    desk.decide(["run_1", "run_1"])
    again = desk.decide(["run_1"])
    assert again.events == []
    assert again.refused == {}


def test_a_slot_that_is_not_held_frees_nothing() -> None:
    desk = Desk()
    assert desk.decide([], ["run_1", "run_1"]).events == []
    desk.decide(["run_1"])
    assert len(desk.decide([], ["run_1", "run_1", "run_2"]).events) == 1
    assert desk.admission.active == {}


def test_the_limit_of_runs_at_once_is_exact_and_says_so() -> None:
    desk = Desk(RunLimits(max_concurrent_runs=2))
    refused = desk.decide(["run_1", "run_2", "run_3"]).refused
    assert list(refused) == ["run_3"]
    assert refused["run_3"].code == "quota_exceeded"
    assert refused["run_3"].details == {"limit": 2, "used": 2}


def test_what_is_freed_in_the_batch_is_given_in_the_batch() -> None:
    desk = Desk(RunLimits(max_concurrent_runs=1))
    desk.decide(["run_1"])
    decision = desk.decide(["run_2"], ["run_1"])
    assert decision.refused == {}
    assert types(decision.events) == ["quota.released", "quota.reserved"]
    assert [e.sequence for e in decision.events] == [2, 3]
    assert list(desk.admission.active) == ["run_2"]


def test_a_run_freed_and_asked_for_again_in_one_batch_holds_one_slot() -> None:
    desk = Desk(RunLimits(max_concurrent_runs=1))
    desk.decide(["run_1"])
    assert desk.decide(["run_1"], ["run_1"]).refused == {}
    assert list(desk.admission.active) == ["run_1"]


def test_a_limit_of_none_at_all_admits_none() -> None:
    assert not Desk(RunLimits(max_concurrent_runs=0)).granted("run_1")


def test_what_is_refused_spends_no_rate() -> None:
    desk = Desk(RunLimits(max_concurrent_runs=1, run_create_qps=1, run_create_burst=2))
    assert desk.granted("run_1")
    assert not desk.granted("run_2")
    desk.decide([], ["run_1"])
    assert desk.granted("run_3")


def test_a_burst_then_the_rate() -> None:
    desk = Desk(RunLimits(run_create_qps=10, run_create_burst=5))
    names = [f"run_{n}" for n in range(8)]
    refused = desk.decide(names).refused
    assert list(refused) == names[5:]
    error = refused["run_5"]
    assert (error.code, error.details["retry_after_ms"]) == ("rate_limited", 100)
    assert not desk.granted("run_8", T0 + 99)
    assert desk.granted("run_8", T0 + 100)
    assert not desk.granted("run_9", T0 + 100)


def test_without_a_burst_it_is_one() -> None:
    desk = Desk(RunLimits(run_create_qps=1))
    assert desk.granted("run_1")
    assert not desk.granted("run_2", T0 + 999)
    assert desk.granted("run_2", T0 + 1000)


class Bucket:
    """The rate by brute force: a bucket of `burst` tokens that fills by microseconds."""

    def __init__(self, interval_us: int, burst: int) -> None:
        self.interval, self.room = interval_us, burst * interval_us
        self.level, self.at = self.room, 0

    def take(self, now_us: int) -> bool:
        self.level = min(self.room, self.level + now_us - self.at)
        self.at = now_us
        if self.level < self.interval:
            return False
        self.level -= self.interval
        return True


@given(
    st.sampled_from([0.5, 1, 3, 7, 50, 333, 1000, 20_000]),
    st.integers(1, 20),
    st.lists(st.tuples(st.integers(0, 400), st.integers(1, 8)), max_size=40),
)
def test_the_rate_admits_exactly_what_a_token_bucket_does(
    qps: float, burst: int, arrivals: list[tuple[int, int]]
) -> None:
    desk = Desk(RunLimits(run_create_qps=qps, run_create_burst=burst))
    bucket = Bucket(round(1_000_000 / qps), burst)
    now = T0
    bucket.at = now * 1000
    for number, (wait, asks) in enumerate(arrivals):
        now += wait
        names = [f"run_{number}_{n}" for n in range(asks)]
        refused = desk.decide(names, now=now).refused
        assert [n not in refused for n in names] == [bucket.take(now * 1000) for _ in names]


@given(
    st.sampled_from([0.3, 1, 3, 7, 50, 333, 1000]),
    st.integers(1, 5),
    st.lists(st.integers(0, 2000), max_size=10),
)
def test_refused_until_exactly_then(qps: float, burst: int, waits: list[int]) -> None:
    desk = Desk(RunLimits(run_create_qps=qps, run_create_burst=burst))
    now = T0
    for number, wait in enumerate(waits):
        now += wait
        desk.decide([f"run_{number}_{n}" for n in range(burst)], now=now)
    refused = desk.decide(["run_x"], now=now).refused
    if not refused:
        return
    retry = refused["run_x"].details["retry_after_ms"]
    assert retry >= 1
    assert not desk.granted("run_x", now + retry - 1)
    assert desk.granted("run_x", now + retry)


def test_a_clock_that_stands_behind_gives_no_new_rate() -> None:
    desk = Desk(RunLimits(run_create_qps=1, run_create_burst=1))
    assert desk.granted("run_1", T0)
    assert not desk.granted("run_2", T0 - 60_000)
    assert desk.granted("run_2", T0 + 1000)


STEPS = st.lists(
    st.tuples(
        st.lists(st.sampled_from([f"run_{n}" for n in range(12)]), max_size=6),
        st.lists(st.sampled_from([f"run_{n}" for n in range(12)]), max_size=6),
        st.integers(-50, 500),
    ),
    max_size=30,
)
LIMITS = st.builds(
    RunLimits,
    max_concurrent_runs=st.none() | st.integers(0, 8),
    run_create_qps=st.none() | st.sampled_from([1.0, 10.0, 100.0]),
    run_create_burst=st.none() | st.integers(1, 5),
)


@given(LIMITS, STEPS, st.integers(0, 30))
def test_slots_are_conserved_and_folding_is_the_live_object(
    limits: RunLimits, steps: list[tuple[list[str], list[str], int]], cut: int
) -> None:
    desk = Desk(limits)
    reserved, released, sequence, now = 0, 0, 0, T0
    for asks, free, wait in steps:
        now += wait
        held = set(desk.admission.active)
        decision = desk.decide(asks, free, now)
        for event in decision.events:
            sequence += 1
            assert event.sequence == sequence
            run_ids = event.payload.model_dump()["run_ids"]
            assert len(run_ids) == len(set(run_ids))
            if event.type.endswith("reserved"):
                assert not held & set(run_ids), "a run id is never held twice"
                held |= set(run_ids)
                reserved += len(run_ids)
            else:
                assert held >= set(run_ids)
                held -= set(run_ids)
                released += len(run_ids)
            assert event.payload.model_dump()["active"] == len(held)
        active = desk.admission.active
        assert set(active) == held
        assert reserved - released == len(active)
        if limits.max_concurrent_runs is not None:
            assert len(active) <= limits.max_concurrent_runs
        assert all(run_id in active for run_id in asks if run_id not in decision.refused)
    whole = Admission(admission_ref("tnt_a"))
    whole.catch_up(desk.records)
    parts = Admission(admission_ref("tnt_a"))
    parts.catch_up(desk.records[:cut])
    parts.catch_up(desk.records[: cut + 1])
    parts.catch_up(desk.records)
    assert whole == parts == desk.admission


def test_folding_from_a_balance_is_folding_from_the_start() -> None:
    desk = Desk(RunLimits(max_concurrent_runs=50, run_create_qps=100, run_create_burst=10))
    balances = []
    for n in range(3 * BALANCE_EVERY):
        free = [f"run_{n - 40}"] if n >= 40 else []
        desk.decide([f"run_{n}"], free, T0 + 10 * n)
        if QuotaBalanced.TYPE in desk.records[-1].types:
            balances.append(n)
    assert len(balances) == 2
    whole = Admission(admission_ref("tnt_a"))
    whole.catch_up(desk.records)
    assert desk.records[-1].base == desk.admission.base
    behind = [r for r in desk.records if r.position > desk.records[-1].base - 1]
    assert QuotaBalanced.TYPE in behind[0].types
    late = Admission(admission_ref("tnt_a"))
    late.catch_up(behind)
    assert late == whole == desk.admission
    assert len(late.active) == 40


@pytest.mark.parametrize("count", [BALANCE_EVERY - 1, BALANCE_EVERY, BALANCE_EVERY + 1])
def test_the_balance_comes_in_its_turn_and_names_when_each_slot_was_taken(count: int) -> None:
    desk = Desk()
    for n in range(count):
        desk.decide([f"run_{n}"], [f"run_{n - 2}"], T0 + n)
    has_one = any(QuotaBalanced.TYPE in r.types for r in desk.records)
    assert has_one == (count > BALANCE_EVERY)
    if has_one:
        last = desk.admission.active
        assert last == {f"run_{count - 2}": T0 + count - 2, f"run_{count - 1}": T0 + count - 1}
