"""The envelope: the contract's fields, in its order, the same bytes for ever."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentos.domain.aggregate import FoldError, read_event
from agentos.domain.auth import Principal
from agentos.domain.envelope import Event, Payload, Trace, by_type, fits_a_line, to_line
from agentos.domain.run.events import (
    RUN_EVENTS,
    ErrorInfo,
    RunCancelRequested,
    RunStarted,
    StepStarted,
    ToolCallCompleted,
)
from agentos.domain.tenant.tenant import Profile, TenantCreated
from agentos.domain.times import rfc3339
from tests.domain.given import T0, TRACE

SPAN = "00f067aa0ba902b7"
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
NASTY = ['"', "\\", "\u2028", "\u2029", "\n", "\r\n", "\0", "😀", "</script>", "\x7f", '{"event":']


def event(payload: Payload, step_id: str | None = None) -> Event:
    return Event(
        event_id="evt_1",
        sequence=12,
        time=T0,
        tenant_id="tnt_demo",
        trace=Trace(TRACE, SPAN),
        payload=payload,
        agent_id="agt_a",
        run_id="run_1",
        step_id=step_id,
    )


def line(payload: Payload, step_id: str | None = None) -> bytes:
    return to_line(event(payload, step_id), rfc3339(T0))


def test_the_fields_and_their_order() -> None:
    inner = json.loads(line(StepStarted(step_kind="plan", name="plan"), "stp_1"))["event"]
    assert list(inner) == [
        "event_id",
        "sequence",
        "time",
        "type",
        "tenant_id",
        "agent_id",
        "run_id",
        "step_id",
        "trace",
        "payload",
    ]
    assert inner["time"] == "2027-01-15T08:00:00.000Z"
    assert inner["trace"] == {"traceparent": TRACE, "span_id": SPAN}
    assert inner["payload"] == {"step_kind": "plan", "name": "plan"}


def test_the_exact_bytes() -> None:
    expected = (
        '{"event":{"event_id":"evt_1","sequence":12,"time":"2027-01-15T08:00:00.000Z",'
        '"type":"agentos.run.started","tenant_id":"tnt_demo","agent_id":"agt_a",'
        '"run_id":"run_1","step_id":null,"trace":{"traceparent":"' + TRACE + '",'
        '"span_id":"00f067aa0ba902b7"},"payload":{"status":"running","worker_id":"wrk_1",'
        '"attempt":1}}}'
    )
    assert line(RunStarted(worker_id="wrk_1", attempt=1)) == expected.encode()


def test_an_event_outside_of_runs_names_its_principal_and_no_run() -> None:
    payload = TenantCreated(partition=0, profile=Profile(name="A", plan_tier="demo"))
    anna = Principal(principal_id="usr_a")
    outside = Event("evt_1", 1, T0, "tnt_a", Trace(TRACE, SPAN), payload, principal=anna)
    inner = json.loads(to_line(outside, rfc3339(T0)))["event"]
    assert inner["principal"] == {"principal_id": "usr_a", "principal_type": "user"}
    assert not {"agent_id", "run_id", "step_id"} & set(inner)


def test_optional_fields_without_a_value_are_left_out_and_required_nulls_are_not() -> None:
    bare = json.loads(line(RunCancelRequested(by="usr_a")))["event"]["payload"]
    assert bare == {"by": "usr_a"}
    done = ToolCallCompleted(
        tool_call_id="t", tool_id="tool.a", status="ok", output=None, duration_ms=0, error=None
    )
    payload = json.loads(line(done))["event"]["payload"]
    assert payload["output"] is None
    assert payload["error"] is None


@given(ANY_TEXT | st.sampled_from(NASTY))
def test_any_text_comes_back_from_one_line(text: str) -> None:
    payload = StepStarted(step_kind="plan", name=text, message=text)
    bytes_ = line(payload, "stp_1")
    assert b"\n" not in bytes_
    assert b"\r" not in bytes_
    assert read_event(bytes_, RUN_EVENTS) == event(payload, "stp_1")
    assert line(read_event(bytes_, RUN_EVENTS).payload, "stp_1") == bytes_


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | ANY_TEXT | st.floats(width=32),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ANY_TEXT, inner, max_size=4),
    max_leaves=12,
)


@given(JSON)
def test_any_json_is_valid_json_and_stable_after_one_trip(output: object) -> None:
    done = ToolCallCompleted(
        tool_call_id="t", tool_id="tool.a", status="ok", output=output, duration_ms=0, error=None
    )
    once = line(done)
    json.loads(once, parse_constant=pytest.fail)
    again = read_event(once, RUN_EVENTS)
    assert line(again.payload) == once


def nested(levels: int) -> object:
    value: object = 1
    for _ in range(levels):
        value = {"a": value}
    return value


@pytest.mark.parametrize("levels", [1, 50, 160])
def test_what_fits_a_line_can_be_read_back(levels: int) -> None:
    fits_a_line(nested(levels))
    error = ErrorInfo(code="x", message="y", details={"d": nested(levels)})
    done = ToolCallCompleted(
        tool_call_id="t", tool_id="tool.a", status="error", output=None, duration_ms=0, error=error
    )
    assert read_event(line(done), RUN_EVENTS).payload == done


@pytest.mark.parametrize(
    "value",
    [nested(180), nested(199), nested(230), nested(5000), "\ud800", {"\udfff": 1}, object()],
    ids=["180", "199", "230", "5000", "surrogate", "surrogate key", "no JSON"],
)
def test_what_no_reader_could_parse_does_not_fit_a_line(value: object) -> None:
    with pytest.raises(ValueError, match=r"."):
        fits_a_line(value)


def test_an_unknown_type_is_never_skipped() -> None:
    with pytest.raises(FoldError, match="unknown event type"):
        read_event(line(RunStarted(worker_id="w", attempt=1)), {})


def test_an_unknown_field_of_a_newer_writer_is_passed_over() -> None:
    newer = line(RunStarted(worker_id="w", attempt=1)).replace(b'"attempt":1', b'"attempt":1,"x":2')
    assert read_event(newer, RUN_EVENTS).payload == RunStarted(worker_id="w", attempt=1)


def test_a_type_name_stands_for_one_class() -> None:
    with pytest.raises(ValueError, match="share a type name"):
        by_type(RunStarted, RunStarted)
