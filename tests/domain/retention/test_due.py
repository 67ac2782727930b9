"""What may go, tried with every kind of time."""

from hypothesis import given
from hypothesis import strategies as st

from agentos.domain.log import Recorded, make_commit, void_commit
from agentos.domain.retention.due import EndedRun, ended_run, is_settled, run_due_at, time_of
from agentos.domain.run.events import Output
from agentos.domain.run.idempotency import EPOCH_MS, RunKey, may_be_older
from agentos.domain.run.run import Run
from tests.domain.given import T0, Ids, created, moment, queued, recorded, running

HOUR = 3_600_000
TIMES = st.integers(T0, T0 + 3 * EPOCH_MS)
AGES = st.integers(0, 400 * 24 * HOUR)
TTLS = st.integers(1, 720).map(lambda hours: hours * HOUR)


@given(created_at=TIMES, length=st.integers(0, EPOCH_MS), age=AGES, ttl=TTLS, keyed=st.booleans())
def test_no_run_goes_before_its_age(
    created_at: int, length: int, age: int, ttl: int, keyed: bool
) -> None:
    run = EndedRun(created_at, created_at + length, keyed)
    assert run_due_at(run, age, ttl) >= run.ended_at + age
    if not keyed:
        assert run_due_at(run, age, ttl) == run.ended_at + age


@given(
    created_at=TIMES,
    skew=st.integers(0, 24 * HOUR),
    later=st.integers(0, 3 * EPOCH_MS),
    age=AGES,
    ttl=TTLS,
)
def test_the_id_of_a_purged_run_never_comes_back(
    created_at: int, skew: int, later: int, age: int, ttl: int
) -> None:
    """Whenever the key is used again, it names another run, and nothing looks for the old one.

    Its admission's clock may have been ahead of its creation's by a day.
    """
    key = RunKey("tnt_a", "usr_a", "agt_a", "k")
    run_id = key.run_id(created_at + skew)
    now = run_due_at(EndedRun(created_at, created_at, True), age, ttl) + later
    assert key.run_id(now) != run_id
    if may_be_older(now, ttl):
        assert key.run_id(now, epochs_ago=1) != run_id


def records(keyed: bool = False) -> list[Recorded]:
    ids, run = Ids(), Run(queued().ref)
    first = created()
    if keyed:
        first = first.model_copy(update={"idempotency_key": "k"})
    run.create("agt_a", first, moment(T0, ids))
    commits = [make_commit(run.ref, run.collect(), ids)]
    run.start("wrk_1", moment(T0 + 1, ids))
    commits.append(make_commit(run.ref, run.collect(), ids))
    run.complete(Output(text="done"), moment(T0 + 2, ids))
    commits.append(make_commit(run.ref, run.collect(), ids))
    return [recorded(commit, at) for at, commit in enumerate(commits, 7)]


def test_a_run_is_read_from_its_commits() -> None:
    assert ended_run(records()) == EndedRun(T0, T0 + 2, False)
    assert ended_run(records(keyed=True)) == EndedRun(T0, T0 + 2, True)


def test_what_has_not_ended_or_is_not_whole_is_no_run_to_purge() -> None:
    whole = records()
    assert ended_run([]) is None
    assert ended_run(whole[:-1]) is None
    assert ended_run(whole[1:]) is None
    assert ended_run([recorded(void_commit(running().ref, Ids()), 1)]) is None


@given(base=st.integers(0, 12), before=st.integers(T0 - 2, T0 + 3), at=st.integers(0, 2))
def test_what_goes_of_a_long_lived_aggregate_is_old_and_lies_before_its_balance(
    base: int, before: int, at: int
) -> None:
    record = records()[at]
    goes = is_settled(record, base, before)
    assert goes == (record.position < base and time_of(record) <= before)


def test_a_void_commit_has_no_time_and_goes_with_what_is_around_it() -> None:
    void = recorded(void_commit(running().ref, Ids()), 6)
    assert is_settled(void, 7, T0)
    assert not is_settled(void, 6, T0)
