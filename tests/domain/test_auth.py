"""A policy context is bounded where it comes in; a stored one is read whatever its length."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from agentos.domain.auth import LONGEST_TEXT, MOST_TAGS, PolicyContext
from agentos.domain.federation.forward import ForwardRequested
from agentos.domain.run.events import RunCreated
from tests.domain.given import created

texts = st.text(max_size=20) | st.text(min_size=LONGEST_TEXT + 1, max_size=LONGEST_TEXT + 20)
contexts = st.fixed_dictionaries(
    {},
    optional={
        "data_classification": texts,
        "region": texts,
        "purpose": texts,
        "consent_tags": st.lists(texts, max_size=3) | st.lists(st.just("t"), min_size=33),
    },
)


@pytest.mark.parametrize(
    "context",
    [
        {"data_classification": "x" * (LONGEST_TEXT + 1)},
        {"region": "x" * (LONGEST_TEXT + 1)},
        {"purpose": "x" * (LONGEST_TEXT + 1)},
        {"consent_tags": ["x" * (LONGEST_TEXT + 1)]},
        {"consent_tags": ["x"] * (MOST_TAGS + 1)},
    ],
)
def test_what_is_too_long_is_refused(context: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        PolicyContext.model_validate(context)


@given(contexts)
def test_what_was_stored_folds_within_the_bounds(context: dict[str, Any]) -> None:
    stored = created().model_dump(mode="json") | {"policy_context": context}
    read = RunCreated.model_validate(stored).policy_context
    assert PolicyContext.model_validate(read.model_dump()) == read
    try:
        assert PolicyContext.model_validate(context) == read
    except ValidationError:
        assert max(map(len, str(read.model_dump()).split("'"))) <= LONGEST_TEXT * 10


def test_an_older_forward_folds_too() -> None:
    field = ForwardRequested.model_fields["policy_context"]
    assert field.metadata == RunCreated.model_fields["policy_context"].metadata != []
