"""Sealing a line: all of its content and nothing else of it, and back to the same bytes."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentos.domain.aggregate import read_event
from agentos.domain.auth import Principal
from agentos.domain.envelope import Event, Payload, Trace, read_line, to_line
from agentos.domain.federation.remote import EventsCopied
from agentos.domain.privacy.content import (
    ERASED,
    PLACES,
    erase_line,
    open_line,
    open_view,
    seal_line,
    view_key,
)
from agentos.domain.run.events import (
    AnswerMessage,
    CallInAnswer,
    ErrorInfo,
    ModelCompleted,
    Output,
    RunCanceled,
    RunCompleted,
    RunCreated,
    RunFailed,
    StepStarted,
    Summary,
    ToolCallCompleted,
    ToolCallRequested,
)
from agentos.domain.run.run import Run
from agentos.domain.times import rfc3339
from tests.domain.given import T0, Ids, answer, created, moment, queued, result

KEY = "sub_0123456789abcdef0123456789abcdef-3"
SUMMARY = Summary(steps_total=1, tool_calls_total=0, model_calls_total=1)


def seal(plain: bytes, bound: bytes) -> bytes:
    """Stand for a cipher: every byte turned over, and what it is bound to in front."""
    return bound + b"|" + bytes(byte ^ 0xFF for byte in plain)


def opening(box: bytes, bound: bytes) -> bytes:
    if not box.startswith(bound + b"|"):
        raise ValueError("bound to another place")
    return bytes(byte ^ 0xFF for byte in box[len(bound) + 1 :])


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
numbers = st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False)
leaves = st.none() | st.booleans() | numbers | texts
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3)
)
objects = st.dictionaries(texts, values, max_size=4)
errors = st.builds(
    ErrorInfo, code=st.just("timeout"), message=texts, details=objects, sealed=st.none(),
    erased=st.none(),
)  # fmt: skip
calls = st.builds(
    CallInAnswer,
    tool_call_id=st.just("tcall_1"),
    tool_id=st.just("tool.echo"),
    name=texts,
    arguments=objects,
)
outputs = st.builds(
    Output,
    text=texts,
    artifacts=st.none() | st.lists(values, max_size=3),
    sealed=st.none(),
    erased=st.none(),
)
answers = st.builds(AnswerMessage, content=texts, tool_calls=st.lists(calls, max_size=3))
payloads: st.SearchStrategy[Payload] = st.one_of(
    texts.map(created),
    st.builds(StepStarted, step_kind=st.just("plan"), name=st.just("plan"), message=texts),
    st.builds(lambda a: answer("req_1").model_copy(update={"message": a}), answers),
    st.builds(lambda e: answer("req_1", error=e), errors),
    st.builds(
        ToolCallRequested,
        tool_call_id=st.just("tcall_1"),
        tool_id=st.just("tool.echo"),
        input=objects,
        timeout_ms=st.just(1),
    ),
    st.builds(lambda o, e: result("tcall_1", o, error=e), values, st.none() | errors),
    st.builds(RunCompleted, output=st.none() | outputs, summary=st.just(SUMMARY)),
    st.builds(RunFailed, error=errors, summary=st.just(SUMMARY)),
)


def line_of(payload: Payload) -> bytes:
    run = queued(Ids())
    run.status = None if payload.TYPE == "agentos.run.created" else run.status
    run.stage(moment(T0), payload, step_id=None)
    return to_line(run.collect()[0], rfc3339(T0))


def texts_in(value: Any) -> set[str]:
    if isinstance(value, str):
        return {value}
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return {text for part in parts for text in texts_in(part)}


@settings(deadline=None)
@given(payloads)
def test_a_sealed_line_opens_to_the_same_bytes(payload: Payload) -> None:
    line = line_of(payload)
    assert open_line(seal_line(line, KEY, seal), opening) == line


@settings(deadline=None)
@given(payloads)
def test_a_sealed_line_is_an_envelope_that_differs_in_its_content_alone(payload: Payload) -> None:
    line = line_of(payload)
    sealed = seal_line(line, KEY, seal)
    assert b"\n" not in sealed
    before, after = read_line(line), read_line(sealed)
    own = {name: value for name, value in before.items() if name != "payload"}
    assert own == {name: value for name, value in after.items() if name != "payload"}
    assert list(before) == list(after)
    for name, value in before["payload"].items():
        if name not in ("input", "output", "message", "error"):
            assert after["payload"][name] == value
    read_event(sealed, Run.PAYLOADS)  # and it folds as any other
    read_event(erase_line(sealed), Run.PAYLOADS)


@settings(deadline=None)
@given(payloads)
def test_nothing_of_the_content_is_left(payload: Payload) -> None:
    word = "zanzibar-4711"
    line = line_of(_with(payload, word))
    sealed = seal_line(line, KEY, seal)
    assert (word.encode() in line) == (payload != RunCompleted(output=None, summary=SUMMARY))
    assert word.encode() not in sealed
    assert word.encode() not in erase_line(sealed)


def _with(payload: Payload, word: str) -> Payload:
    """Put a word into every piece of content that there is."""
    match payload:
        case RunCreated():
            return created(word)
        case ModelCompleted(message=AnswerMessage()):
            call = CallInAnswer(
                tool_call_id="tcall_1", tool_id="tool.a", name="a", arguments={"a": word}
            )
            message = AnswerMessage(content=word, tool_calls=[call])
            return payload.model_copy(update={"message": message})
        case ModelCompleted():
            return answer("req_1", error=ErrorInfo(code="timeout", message=word))
        case RunCompleted(output=Output()):
            output = Output(text=word, artifacts=[word, {"a": word}])
            return payload.model_copy(update={"output": output})
        case RunFailed():
            error = ErrorInfo(code="timeout", message=word, details={"a": [word]})
            return payload.model_copy(update={"error": error})
        case ToolCallCompleted():
            return payload.model_copy(update={"output": {"a": word}})
        case ToolCallRequested():
            return payload.model_copy(update={"input": {word: word}})
        case StepStarted():
            return payload.model_copy(update={"message": word})
    return payload


@settings(deadline=None)
@given(payloads)
def test_an_erased_line_says_so_and_keeps_its_place(payload: Payload) -> None:
    sealed = seal_line(line_of(payload), KEY, seal)
    erased = erase_line(sealed)
    before, after = read_line(sealed), read_line(erased)
    assert (before["event_id"], before["sequence"]) == (after["event_id"], after["sequence"])
    assert b'"box"' not in erased
    assert b'"sealed"' not in erased
    assert erase_line(erased) == erased


@pytest.mark.parametrize(
    ("payload", "shown"),
    [
        (created("hello"), {"input": {"type": "text", "text": ERASED, "erased": True}}),
        (
            result("tcall_1", ["x"]),
            {"output": {"erased": True, "subject": KEY.removesuffix("-3")}},
        ),
        (
            RunCompleted(output=Output(text="x", artifacts=[1]), summary=SUMMARY),
            {
                "output": {
                    "type": "text",
                    "text": ERASED,
                    "artifacts": [{"erased": True, "subject": KEY.removesuffix("-3")}],
                    "erased": True,
                }
            },
        ),
    ],
)
def test_the_marker_has_a_documented_shape(payload: Payload, shown: dict[str, Any]) -> None:
    erased = read_line(erase_line(seal_line(line_of(payload), KEY, seal)))
    assert {name: erased["payload"][name] for name in shown} == shown


def test_a_line_without_content_is_not_touched() -> None:
    line = line_of(RunCanceled(by="usr_anna", summary=SUMMARY))
    assert seal_line(line, KEY, seal) is line
    assert open_line(line, opening) is line
    assert erase_line(line) is line


def test_a_piece_opens_at_its_own_place_alone() -> None:
    sealed = json.loads(seal_line(line_of(created("hello")), KEY, seal))
    for move in MOVES:
        moved = json.loads(json.dumps(sealed))
        move(moved["event"])
        with pytest.raises(ValueError, match="another place"):
            open_line(json.dumps(moved).encode(), opening)


def _to_another_event(inner: dict[str, Any]) -> None:
    inner["payload"]["input"]["sealed"] = f"{KEY}/evt_other"


MOVES: tuple[Callable[[dict[str, Any]], None], ...] = (
    lambda inner: inner.update(tenant_id="tnt_other"),
    lambda inner: inner.update(run_id="run_other"),
    _to_another_event,
)


@settings(deadline=None)
@given(st.none() | outputs, st.none() | errors)
def test_a_view_of_sealed_lines_opens_to_the_view(
    output: Output | None, error: ErrorInfo | None
) -> None:
    payload: Payload = RunCompleted(output=output, summary=SUMMARY)
    if error is not None:
        payload = RunFailed(error=error, summary=SUMMARY)
    line = line_of(payload)
    view, sealed = _view(line), _view(seal_line(line, KEY, seal))
    if output is None and error is None:
        assert view_key(sealed) == ""
        return
    assert view_key(sealed) == KEY
    assert open_view(sealed, opening) == view
    shown = open_view(sealed, None)
    part = shown["error"] or shown["output"]
    assert part["erased"] is True
    assert ERASED in texts_in(part)


def _view(line: bytes) -> dict[str, Any]:
    run = queued(Ids())
    run.evolve(read_event(line, Run.PAYLOADS))
    return run.view()


junk: st.SearchStrategy[Any] = values | st.fixed_dictionaries({"text": values, "x": values})


def foreign(payload: dict[str, Any], kind: str) -> str:
    """Return a line as a peer of any version may have sent it."""
    inner = {"event_id": "evt_1", "sequence": 1, "type": kind, "tenant_id": "tnt_a"}
    return json.dumps({"event": {**inner, "run_id": "run_1", "payload": payload}})


def copied(lines: list[str]) -> bytes:
    payload = EventsCopied(stack_id="stk_b", first=1, last=len(lines), lines=lines)
    trace = Trace("00-0-0-01", "0")
    event = Event("evt_9", 1, T0, "tnt_a", trace, payload, principal=Principal(principal_id="a"))
    return to_line(event, rfc3339(T0))


@settings(deadline=None)
@given(st.lists(payloads.map(line_of), max_size=3))
def test_the_copies_of_a_peers_run_are_sealed_line_by_line(lines: list[bytes]) -> None:
    line = copied([one.decode() for one in lines])
    sealed = seal_line(line, KEY, seal)
    assert read_line(sealed)["payload"]["lines"] == [
        seal_line(one, KEY, seal).decode() for one in lines
    ]
    assert open_line(sealed, opening) == line
    assert erase_line(erase_line(sealed)) == erase_line(sealed)


@settings(deadline=None)
@given(
    st.dictionaries(st.sampled_from(["input", "output", "message", "error"]), junk),
    st.sampled_from(sorted(PLACES)),
)
def test_whatever_a_peer_sent_is_sealed_and_comes_back(payload: Any, kind: str) -> None:
    line = copied([foreign(payload, kind)])
    opened = open_line(seal_line(line, KEY, seal), opening)
    assert [json.loads(one) for one in read_line(opened)["payload"]["lines"]] == [
        json.loads(foreign(payload, kind))
    ]
    erase_line(seal_line(line, KEY, seal))
