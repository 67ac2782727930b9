"""Keys: which run one names, now, after its time, and around the turn of an epoch."""

from hypothesis import given
from hypothesis import strategies as st

from agentos.domain.ids import is_named_id
from agentos.domain.run.idempotency import EPOCH_MS, RunKey, may_be_older

DAY_MS = 86_400_000
KEY = RunKey("tnt_a", "usr_a", "agt_a", "order-1")
TIMES = st.integers(0, 10**14)


@given(TIMES, st.integers(0, 999), st.text(max_size=20))
def test_a_key_names_one_run_that_fits_a_subject(time: int, generation: int, key: str) -> None:
    run_key = RunKey("tnt_a", "usr_a", "agt_a", key)
    assert run_key.run_id(time, generation) == run_key.run_id(time, generation)
    assert is_named_id(run_key.run_id(time, generation), "run")


def test_every_part_of_the_scope_counts() -> None:
    keys = [
        KEY,
        RunKey("tnt_b", "usr_a", "agt_a", "order-1"),
        RunKey("tnt_a", "usr_b", "agt_a", "order-1"),
        RunKey("tnt_a", "usr_a", "agt_b", "order-1"),
        RunKey("tnt_a", "usr_a", "agt_a", "order-2"),
    ]
    assert len({key.run_id(0) for key in keys}) == len(keys)


def test_the_parts_do_not_run_into_one_another() -> None:
    one = RunKey("tnt_a", "usr_a", "agt_a", "x")
    other = RunKey("tnt_a", "usr_a", "agt_ax", "")
    assert one.run_id(0) != other.run_id(0)


@given(TIMES, TIMES)
def test_the_same_epoch_the_same_run(one: int, other: int) -> None:
    same = one // EPOCH_MS == other // EPOCH_MS
    assert (KEY.run_id(one) == KEY.run_id(other)) == same


@given(TIMES)
def test_the_epoch_before_is_found_again(time: int) -> None:
    assert KEY.run_id(time + EPOCH_MS, epochs_ago=1) == KEY.run_id(time)


def test_generations_differ() -> None:
    assert len({KEY.run_id(0, generation) for generation in range(1000)}) == 1000


@given(TIMES, st.integers(1, EPOCH_MS), st.integers(0, EPOCH_MS))
def test_a_use_within_the_time_to_live_is_never_overlooked(now: int, ttl: int, ago: int) -> None:
    used = now - ago % ttl
    if used // EPOCH_MS != now // EPOCH_MS:
        assert may_be_older(now, ttl)
        assert KEY.run_id(now, epochs_ago=1) == KEY.run_id(used)


def test_far_from_the_turn_only_one_epoch_is_looked_at() -> None:
    assert may_be_older(EPOCH_MS, DAY_MS)
    assert may_be_older(EPOCH_MS + DAY_MS - 1, DAY_MS)
    assert not may_be_older(EPOCH_MS + DAY_MS, DAY_MS)
