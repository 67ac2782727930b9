"""Canonical JSON is what an independent implementation of RFC 8785 says it is."""

from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import from_json

from agentos.domain.audit.canonical import LARGEST, canonical

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-LARGEST, LARGEST) | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
    max_leaves=20,
)


@given(JSON)
def test_it_is_as_the_standard_has_it(value: Any) -> None:
    assert canonical(value) == rfc8785.dumps(value)


def test_keys_are_sorted_by_their_utf_16_units() -> None:
    value: Any = {"\ufb33": 1, "\U0001f600": 2, "a": [{"\uffff": 1, "\U0010ffff": 2}]}
    assert canonical(value) == rfc8785.dumps(value)
    behind = {"a\ue000": 1, "a\U00010000": 2}
    assert canonical(behind) == rfc8785.dumps(behind)
    assert list(from_json(canonical(behind))) == ["a\U00010000", "a\ue000"]


NO_FORM: list[Any] = [
    1.5,
    LARGEST + 1,
    {"a": [float("nan")]},
    {1: 2},
    {"\ufb33": 1, 1: 2},
    "\ud800",
    {"\ud800": 1},
    [{"\U0001f600": 1}, 0.5],
]


@pytest.mark.parametrize("value", NO_FORM)
def test_what_has_no_exact_form_is_refused(value: Any) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - of several kinds
        canonical(value)
