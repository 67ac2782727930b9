"""Commits in an archive come back whole, and find their places in another log."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentos.domain.archive import ArchiveError, Digest, Places, from_entry, to_entry
from agentos.domain.log import Lease, Recorded
from agentos.domain.subjects import StreamRef

refs = st.builds(
    StreamRef,
    st.sampled_from(["tnt_a", "tnt_b"]),
    st.sampled_from(["run", "quota"]),
    st.sampled_from(["run_1", "run_2"]),
)
records = st.builds(
    Recorded,
    ref=refs,
    commit_id=st.text(max_size=5),
    first_sequence=st.integers(1, 1000),
    types=st.lists(st.sampled_from(["a.b", "c.d"]), max_size=2).map(tuple),
    body=st.text(max_size=20).map(str.encode),
    command_id=st.text(max_size=5),
    causation_id=st.text(max_size=5),
    lease=st.none() | st.builds(Lease, st.text(max_size=5), st.integers(0, 2**50)),
    base=st.integers(0, 50),
    priority=st.sampled_from(["", "high"]),
    position=st.integers(1, 2**40),
)


@given(records)
def test_a_commit_comes_back_whole(record: Recorded) -> None:
    line = to_entry(record)
    assert b"\n" not in line
    assert from_entry(line) == record


@pytest.mark.parametrize("line", [b"", b"{}", b"[1]", b'{"position": "x"}', b"\xff"])
def test_what_is_no_commit_is_said_to_be_none(line: bytes) -> None:
    with pytest.raises(ArchiveError):
        from_entry(line)


@given(st.lists(records, max_size=6), st.integers(0, 6))
def test_the_digest_depends_on_content_and_order_alone(found: list[Recorded], cut: int) -> None:
    whole, again = Digest(), Digest()
    for record in found:
        whole.add([record])
        again.add([record])
    assert whole.value == again.value
    if len(found) > 1 and found[0].body != found[-1].body:
        other = Digest()
        for record in reversed(found):
            other.add([record])
        assert other.value != whole.value


@given(st.lists(st.tuples(refs, st.integers(1, 5)), min_size=1, max_size=20))
def test_places_are_dense_and_what_points_back_points_to_the_same(
    steps: list[tuple[StreamRef, int]],
) -> None:
    places, at, olds = Places(), 0, []
    for number, (ref, gap) in enumerate(steps, start=1):
        at += gap
        olds.append(at)
        base = olds[number // 2]
        record = Recorded(ref, f"c{number}", 1, ("a",), b"", base=base, position=at)
        commit, expected = places.place(record)
        earlier = [n for n, (other, _) in enumerate(steps[: number - 1], start=1) if other == ref]
        assert expected == (earlier[-1] if earlier else 0)
        assert olds[commit.base - 1] == base
    assert places.count == len(steps)
