"""A recorded run is decided again to the same bytes, and whatever was changed in it is found."""

import hashlib
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentos.domain.agent.agent import Definition, Limits
from agentos.domain.errors import NotFoundError
from agentos.domain.log import Recorded, void_commit
from agentos.domain.replay.redaction import redact_line
from agentos.domain.replay.replay import OLD_TOOLS, Replay
from tests.domain.given import Ids, recorded
from tests.domain.replay.given import assert_replays, lines_of, replayed, with_line
from tests.domain.replay.recorder import DEFINITION, Recorder, kinds_of_runs

KINDS = sorted(kinds_of_runs())


def sha(lines: list[bytes]) -> str:
    return hashlib.sha256(b"\n".join(lines)).hexdigest()


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_run_replays_equal(kind: str) -> None:
    made = kinds_of_runs()[kind]
    assert_replays(made.records, made.definition)
    found = replayed(made.records, made.definition)
    assert found.digest == sha(lines_of(made.records))
    assert found.run_id == "run_1"


def had_policies(made: Recorder) -> bool:
    """Whether policy said something of a call: no log of before decision 024 has that."""
    return any(call.policy for answer in made.run.answers for call in answer.tool_calls)


@pytest.mark.parametrize("kind", [k for k in KINDS if not had_policies(kinds_of_runs()[k])])
def test_a_log_of_before_the_tools_were_recorded_replays_and_says_so(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Recorder, "says_nothing_of_tools", True)
    made = kinds_of_runs()[kind]
    found = replayed(made.records, made.definition)
    assert found.equal, found
    assert found.notes == ((OLD_TOOLS,) if made.run.attempt else ())


@pytest.mark.parametrize("kind", KINDS)
def test_a_log_of_before_steps_had_spans_replays_equal(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Recorder, "parent_span_id", None)
    made = kinds_of_runs()[kind]
    assert_replays(made.records, made.definition)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 2, 100])
def test_batches_and_snapshots_change_nothing(kind: str, size: int) -> None:
    made = kinds_of_runs()[kind]
    whole = replayed(made.records, made.definition)
    for trusted in range(len(made.records) + 1):
        replay = Replay(made.run.ref, lambda _: DEFINITION, trusted=trusted)
        for at in range(0, len(made.records), size):
            replay.feed(made.records[at : at + size])
        assert replay.result() == whole


SCRIPTS = st.lists(
    st.sampled_from(["model", "tools", "refuse", "start", "held", "stopped", "slow", "fail"]),
    max_size=14,
)


def record(script: list[str], max_steps: int, timeout: int) -> Recorder:
    """Make the run that a script tells, as far as it can be told."""
    made = Recorder("hi", max_steps=max_steps, timeout_ms=timeout).start()
    for word in script:
        run = made.run
        if run.is_final:
            break
        if word == "start":
            made.start(f"wrk_{run.attempt}", 400)
        elif word == "held" and run.cancel is None:
            made.cancel("stop", held=True)
        elif word == "stopped" or (run.cancel is not None and word != "held"):
            made.stopped()
        elif run.open_model is not None and word == "fail":
            made.model(fails=True)
        elif run.open_model is not None:
            calls = {"tools": ["tool.echo", "tool.time"], "refuse": ["tool.no", "tool.echo"]}
            made.model("said", calls.get(word, []), ms=900 if word == "slow" else 20)
        elif run.open_tools:
            made.tools([word] * (1 + (word == "tools") * (len(run.open_tools) > 1)))
    return made


@given(SCRIPTS, st.integers(1, 6), st.integers(50, 5000))
def test_any_run_replays_equal(script: list[str], max_steps: int, timeout: int) -> None:
    made = record(script, max_steps, timeout)
    assert_replays(made.records, made.definition)


@given(
    SCRIPTS,
    st.integers(1, 4),
    st.integers(0, 10**6),
    st.integers(0, 10**6),
    st.integers(1, 255),
)
@settings(max_examples=300)
def test_any_changed_byte_is_found(
    script: list[str], max_steps: int, which: int, place: int, mask: int
) -> None:
    made = record(script, max_steps, 3000)
    lines = lines_of(made.records)
    before = replayed(made.records, made.definition)
    which %= len(lines)
    line = bytearray(lines[which])
    line[place % len(line)] ^= mask
    changed = with_line(made.records, which, bytes(line))
    replay = Replay(made.run.ref, lambda _: DEFINITION).feed(changed)
    found = replay.result(recorded_digest=before.digest)
    assert not found.equal
    assert found.first_difference is not None
    assert found.digest != before.digest


def test_what_follows_is_found_without_a_recorded_digest() -> None:
    made = kinds_of_runs()["tools_in_parallel"]
    lines = lines_of(made.records)
    for at, line in enumerate(lines):
        for was, now in (
            (b'"has_tools":true', b'"has_tools":false'),
            (b'"timeout_ms":1000}', b'"timeout_ms":1001}'),
            (b'"steps_total":6', b'"steps_total":5'),
            (b'"messages":2', b'"messages":3'),
            (b'"text":"bye"', b'"text":"eye"'),
            (b'"status":"ok","duration_ms":6', b'"status":"ok","duration_ms":60'),
        ):
            if was in line and b"run.started" not in line and b"call.completed" not in line:
                changed = with_line(made.records, at, line.replace(was, now))
                found = replayed(changed, DEFINITION).first_difference
                assert found is not None, line
                assert found.sequence == at + 1
                assert found.field is not None
                assert found.recorded != found.recomputed


def test_a_difference_names_its_event_its_field_and_why() -> None:
    made = kinds_of_runs()["completed"]
    line = lines_of(made.records)[-1]
    assert b'"model_calls_total":1' in line
    changed = with_line(
        made.records, 6, line.replace(b'"model_calls_total":1', b'"model_calls_total":2')
    )
    found = replayed(changed, DEFINITION).to_json()
    assert found["equal"] is False
    assert found["first_difference"] == {
        "sequence": 7,
        "type": "agentos.run.completed",
        "reason": "the decision gives another value",
        "field": "payload.summary.model_calls_total",
        "recorded": "2",
        "recomputed": "1",
    }


def test_an_event_too_many_and_one_too_few_are_found() -> None:
    records = kinds_of_runs()["completed"].records
    last = records[-1]
    short = replace(last, body=b"\n".join(last.lines()[:-1]))
    found = replayed([*records[:-1], short], DEFINITION).first_difference
    assert found is not None
    assert (found.sequence, found.type) == (7, "agentos.run.completed")
    assert "does not have" in found.reason
    long = replace(last, body=b"\n".join([*last.lines(), last.lines()[-1]]))
    found = replayed([*records[:-1], long], DEFINITION).first_difference
    assert found is not None
    assert found.sequence == 8


@pytest.mark.parametrize("kind", KINDS)
def test_a_commit_dropped_doubled_or_swapped_is_found(kind: str) -> None:
    made = kinds_of_runs()[kind]
    before, records = replayed(made.records, made.definition), made.records
    for at in range(len(records)):
        dropped = records[:at] + records[at + 1 :]
        doubled = records[: at + 1] + records[at:]
        swapped = records[:at] + records[at : at + 2][::-1] + records[at + 2 :]
        for changed in (dropped, doubled, swapped):
            if changed != records and changed:
                replay = Replay(made.run.ref, lambda _: DEFINITION).feed(changed)
                assert not replay.result(before.digest).equal


@given(st.lists(st.binary(max_size=60), min_size=1, max_size=4))
def test_a_log_of_anything_at_all_is_different_and_no_crash(bodies: list[bytes]) -> None:
    made = kinds_of_runs()["completed"]
    rubbish = [replace(made.records[0], body=body or b"x") for body in bodies]
    assert not replayed(rubbish, DEFINITION).equal


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2)
    ),
    max_leaves=4,
)


@given(st.data())
@settings(max_examples=200)
def test_any_value_put_anywhere_in_a_line_is_no_crash(data: st.DataObject) -> None:
    from pydantic_core import from_json, to_json

    made = kinds_of_runs()[data.draw(st.sampled_from(KINDS))]
    lines = lines_of(made.records)
    at = data.draw(st.integers(0, len(lines) - 1))
    whole = from_json(lines[at])
    place = whole["event"]
    while True:
        key = data.draw(st.sampled_from(sorted(place)))
        if isinstance(place[key], dict) and place[key] and data.draw(st.booleans()):
            place = place[key]
            continue
        place[key] = data.draw(JSON)
        break
    changed = to_json(whole)
    found = replayed(with_line(made.records, at, changed), made.definition)
    assert found.digest != replayed(made.records, made.definition).digest or changed == lines[at]


def test_another_definition_gives_another_run() -> None:
    records = kinds_of_runs()["with_tools"].records
    for changed in (
        DEFINITION.model_copy(update={"model_ref": "builtin/scripted"}),
        DEFINITION.model_copy(update={"instructions": None}),
        DEFINITION.model_copy(update={"tools": ("tool.time",)}),
        DEFINITION.model_copy(update={"limits": Limits(max_steps=1)}),
    ):
        assert not replayed(records, changed).equal


def test_a_version_that_nobody_knows_is_a_difference() -> None:
    def nothing(version: str) -> Definition:
        raise NotFoundError("no such version")

    made = kinds_of_runs()["completed"]
    found = Replay(made.run.ref, nothing).feed(made.records).result()
    assert found.first_difference is not None
    assert "no such version" in found.first_difference.reason


def test_a_closed_place_has_no_events() -> None:
    made = Recorder()
    void: Recorded = recorded(void_commit(made.run.ref, Ids()), 1)
    found = replayed([void], DEFINITION)
    assert (found.events, found.equal) == (0, True)


def test_a_run_over_its_cost_budget_replays_and_so_does_its_redacted_form() -> None:
    thrifty = DEFINITION.model_copy(update={"limits": Limits(cost_budget_usd=0.25)})
    made = Recorder(definition=thrifty).start().model("", ["tool.echo"]).tools(["fine"])
    assert made.run.error is not None
    assert made.run.error.code == "budget"
    assert_replays(made.records, thrifty)
    hidden = [redact_line(line, lambda text: text.replace("e", "")) for line in made_lines(made)]
    assert hidden[-1] == made_lines(made)[-1]


def made_lines(made: Recorder) -> list[bytes]:
    """Return the lines of a recorder's run."""
    return lines_of(made.records)
