"""The copy of a remote run: in order, once, byte for byte, whatever way its events come."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentos.domain.envelope import read_line
from agentos.domain.errors import ConflictError
from agentos.domain.federation import remote
from agentos.domain.federation.ingest import Ingest, ingest_ref
from agentos.domain.federation.remote import (
    GapFilled,
    RemoteEnded,
    RemoteRun,
    RunLinked,
    checked_line,
    copied_lines,
    remote_ref,
)
from agentos.domain.federation.view import STATUSES
from agentos.domain.log import Recorded, make_commit
from tests.domain.given import Ids, moment

RUN = "run_1"
LINK = RunLinked(
    stack_id="stk_b",
    forward_id="fwd_1",
    agent_id="agt_a",
    events_url="http://b.example/x",
    status="queued",
    created_at="2026-11-21T10:15:36.121Z",
    run_options={},
)


def line(sequence: int, **more: Any) -> bytes:
    """Return an event of the run; spaces in it must survive."""
    kind = "agentos.run.completed" if more.pop("final", False) else "agentos.run.started"
    inner = {
        "event_id": f"evt_{sequence}",
        "sequence": sequence,
        "time": "2026-11-21T10:15:36.121Z",
        "type": kind,
        "tenant_id": "tnt_a",
        "agent_id": "agt_a",
        "run_id": RUN,
        "step_id": None,
        "payload": {"status": "completed" if kind.endswith("completed") else "running"},
        **more,
    }
    return json.dumps({"event": inner}, ensure_ascii=False).encode()


class Copy:
    """A copy and the log under it."""

    def __init__(self, link: RunLinked = LINK) -> None:
        self.ids = Ids()
        self.records: list[Recorded] = []
        self.remote = RemoteRun(remote_ref("tnt_a", RUN))
        self.write(self.remote.link(link, moment(new_id=self.ids)))

    def write(self, events: Any) -> list[str]:
        """Append events and fold them; returns their types."""
        if events:
            commit = make_commit(self.remote.ref, events, self.ids)
            values = {name: getattr(commit, name) for name in commit.__dataclass_fields__}
            self.records.append(Recorded(**values, position=len(self.records) + 1))
            self.remote.fold(self.records[-1:])
        return [event.type for event in events]

    def copy(self, *lines: bytes, **more: Any) -> list[str]:
        """Take lines."""
        return self.write(self.remote.copy(lines, moment(new_id=self.ids), **more))


@given(
    st.integers(1, 12).flatmap(
        lambda count: st.tuples(
            st.just(count),
            st.lists(
                st.tuples(st.integers(1, count), st.integers(1, count)), min_size=1, max_size=20
            ),
        )
    )
)
def test_however_pieces_overlap_the_copy_is_the_run(case: tuple[int, Any]) -> None:
    count, cuts = case
    lines = [line(at, text="ü  \u2028 x") for at in range(1, count)]
    lines.append(line(count, final=True))
    copy = Copy()
    for first, last in cuts:
        piece = lines[min(first, last) - 1 : max(first, last)]
        if min(first, last) > copy.remote.copied + 1:
            with pytest.raises(ConflictError) as raised:
                copy.copy(*piece)
            assert raised.value.details["first"] == copy.remote.copied + 1
        else:
            copy.copy(*piece)
    copy.copy(*lines)
    found = copied_lines(copy.records)
    assert [text for _, text in found] == lines
    assert [number for number, _ in found] == list(range(1, count + 1))
    assert copy.remote.has_ended
    assert copy.copy(*lines) == []
    assert RemoteRun(copy.remote.ref).fold(copy.records) == copy.remote
    assert copied_lines(copy.records, count - 1) == found[-1:]


def test_a_cut_and_what_filled_it_are_noted() -> None:
    copy = Copy()
    copy.copy(line(1))
    assert copy.write(copy.remote.miss(3, "skipped", moment(new_id=copy.ids)))
    assert [tuple(gap) for gap in copy.remote.gaps] == [(2, 3)]
    assert copy.write(copy.remote.miss(3, "skipped", moment(new_id=copy.ids))) == []
    types = copy.copy(line(2), line(3), line(4, final=True), filled_by="peer", cut_ms=7)
    assert types[1:] == [GapFilled.TYPE, RemoteEnded.TYPE]
    assert copy.remote.gaps == []


def test_a_link_is_one_peers_for_ever() -> None:
    copy = Copy()
    assert copy.remote.link(LINK, moment()) == []
    for change in ({"stack_id": "stk_c"}, {"forward_id": "fwd_2"}):
        with pytest.raises(ConflictError):
            copy.remote.link(LINK.model_copy(update=change), moment())


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_what_is_no_event_is_refused(data: bytes) -> None:
    with pytest.raises(ConflictError):
        checked_line(data, "tnt_a", RUN)


WRONG: list[dict[str, Any]] = [
    {"tenant_id": "tnt_b"},
    {"run_id": "run_2"},
    {"run_id": None},
    {"event_id": ""},
    {"event_id": 5},
    {"sequence": True},
    {"sequence": 0},
    {"sequence": 2**70},
    {"payload": []},
    {"type": None},
    {"time": 5},
]


@pytest.mark.parametrize("change", WRONG, ids=str)
def test_an_event_that_does_not_fit_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ConflictError):
        checked_line(line(change.pop("sequence", 1), **change), "tnt_a", RUN)


@given(st.lists(st.integers(1, 15), max_size=30))
def test_pushes_are_kept_once_and_their_gaps_are_known(sequences: list[int]) -> None:
    ingest = Ingest(ingest_ref("tnt_a", "stk_b", RUN))
    ids = Ids()
    taken: set[int] = set()
    for sequence in sequences:
        events, found = ingest.take("stk_b", RUN, [line(sequence)], moment(new_id=ids))
        assert len(found.lines) == (sequence not in taken)
        assert found.rejected == (sequence in taken)
        taken.add(sequence)
        for event in events:
            ingest.evolve(event)
    missing = {at for gap in ingest.gaps() for at in range(gap.first, gap.last + 1)}
    assert missing == set(range(1, max(taken, default=0) + 1)) - taken


NUMBERS = st.one_of(
    st.integers(),
    st.integers(min_value=10**300, max_value=10**400),
    st.floats(),
    st.booleans(),
    st.text(),
    st.none(),
)
MODEL_CALL = "agentos.model.completed"


@given(st.lists(st.tuples(NUMBERS, NUMBERS), max_size=6), NUMBERS)
def test_a_peers_numbers_never_stop_a_fold(pairs: list[tuple[Any, Any]], odd: Any) -> None:
    copy = Copy()
    for at, (cost, tokens) in enumerate(pairs, 1):
        said = {"cost_usd": cost, "usage": {"total_tokens": tokens}}
        copy.copy(line(at, type=MODEL_CALL, payload=said))
    copy.copy(line(len(pairs) + 1, final=True, payload={"output": {"n": [odd]}, "status": odd}))
    view = RemoteRun(copy.remote.ref).fold(copy.records).view()
    assert view["status"] == "completed"
    orjson.dumps(view)  # it can be answered
    summary = view.get("summary", {"cost_usd": 0, "tokens_total": 0})
    assert 0 <= summary["cost_usd"] < 10**13
    assert type(summary["tokens_total"]) is int


@given(st.text(), st.text())
def test_a_status_is_a_known_one(first: str, last: str) -> None:
    copy = Copy(LINK.model_copy(update={"status": first}))
    assert copy.remote.view()["status"] in STATUSES
    copy.copy(line(1, final=True, payload={"status": last}))
    assert copy.remote.view()["status"] == "completed"
    ended = read_line(copy.records[-1].lines()[-1])
    assert (ended["type"], ended["payload"]["status"]) == (RemoteEnded.TYPE, "completed")


def test_what_does_not_fold_is_refused_before_it_is_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copy = Copy()

    def too_large(view: dict[str, Any], inner: dict[str, Any]) -> None:
        view["status"] = "half done"
        raise OverflowError

    with monkeypatch.context() as patched:
        patched.setattr(remote, "fold_view", too_large)
        with pytest.raises(ConflictError):
            copy.copy(line(1))
    assert copy.remote.view()["status"] == "queued"
    assert copy.copy(line(1))
