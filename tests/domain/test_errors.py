"""Errors over a wire: whatever was sent, there is one to raise."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from agentos.domain.errors import BY_CODE, AgentOSError, InternalError, error_from_wire

JSON: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text()),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)),
    max_leaves=5,
)
NAMES = st.one_of(st.sampled_from(["message", "self", "retryable", "code"]), st.text())


@given(
    st.sampled_from(sorted(BY_CODE)),
    st.text(),
    st.dictionaries(NAMES, JSON),
    st.sampled_from([0, 1]),
)
def test_an_error_is_the_same_behind_a_wire(
    code: str, message: str, details: dict[str, Any], other: int
) -> None:
    details = {name: value for name, value in details.items() if name != "retryable"}
    kind = BY_CODE[code]
    error = kind(message, **details)
    if other:
        error.details["retryable"] = not kind.retryable
    found = error_from_wire(error.to_wire())
    assert (type(found), found.to_wire()) == (kind, error.to_wire())


@given(st.fixed_dictionaries({"code": JSON, "message": JSON, "details": JSON, "retryable": JSON}))
def test_what_is_no_error_object_is_an_error_all_the_same(wire: dict[str, Any]) -> None:
    found = error_from_wire(wire)
    assert isinstance(found, AgentOSError)
    assert type(found.to_wire()["retryable"]) is bool
    if wire["code"] not in list(BY_CODE):
        assert type(found) is InternalError


def test_details_that_are_no_object_or_say_how_often_to_try() -> None:
    assert error_from_wire({"code": "conflict", "details": [1, 2]}).details == {}
    said = {"code": "conflict", "details": {"retryable": "often", "message": 1}}
    assert error_from_wire(said).to_wire() == {
        "code": "conflict",
        "message": "",
        "retryable": False,
        "details": {"message": 1},
    }
