"""Commits in an archive come back whole, and find their places in another log."""

from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentos.domain.archive import ArchiveError, Digest, Places, from_entry, to_entry
from agentos.domain.log import Commit, Lease, Recorded
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
    correlation_id=st.text(max_size=5),
    by_tenant=st.text(max_size=5),
    sealed=st.text(max_size=5),
    waits_until=st.integers(0, 2**50),
    position=st.integers(1, 2**40),
)


@given(records)
def test_a_commit_comes_back_whole(record: Recorded) -> None:
    line = to_entry(record)
    assert b"\n" not in line
    assert from_entry(line) == record


def test_no_member_of_a_commit_is_forgotten() -> None:
    """A new one that is not in the archive would be lost by every restore."""
    said: dict[str, Any] = {
        "ref": StreamRef("tnt_a", "run", "run_1"),
        "first_sequence": 3,
        "types": ("a.b",),
        "body": b"{}",
        "lease": Lease("wrk_1", 7),
        "base": 2,
        "waits_until": 9,
    }
    values = {f.name: said.get(f.name, f"some {f.name}") for f in fields(Commit)}
    record = Recorded(**values, position=5)
    read = from_entry(to_entry(record))
    placed, _ = Places(4).place(read)
    for field in fields(Commit):
        assert getattr(record, field.name) not in ("", 0, None, field.default)
        assert getattr(read, field.name) == getattr(record, field.name), field.name
        if field.name != "base":
            assert getattr(placed, field.name) == getattr(record, field.name), field.name


def test_an_archive_of_before_the_newer_members_still_reads() -> None:
    line = (
        b'{"position":3,"tenant_id":"tnt_a","kind":"run","id":"run_1","commit_id":"c",'
        b'"first":1,"types":["a.b"],"body":"{}"}'
    )
    read = from_entry(line)
    assert (read.correlation_id, read.by_tenant, read.waits_until) == ("", "", 0)


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
