"""What is a JSON Schema, checked against the metaschemas themselves."""

from typing import Any, Final

import jsonschema_rs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentos.gateways.model_policy.json_schema import (
    CHECKS,
    NotASchemaError,
    check_schema,
)

KEYWORDS: Final = sorted(CHECKS.keys() - {"$schema", "$ref", "$id", "pattern"})
VALUES: Final = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 3)
    | st.sampled_from([0.5, 2.0, -1.0])
    | st.sampled_from("string object array number integer null boolean text a b".split()),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from([*KEYWORDS, "x"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=10,
)


def is_taken(schema: Any) -> bool:
    try:
        check_schema(schema)
    except NotASchemaError:
        return False
    return True


@settings(max_examples=400)
@given(VALUES)
def test_what_the_metaschema_takes_is_taken(schema: Any) -> None:
    if jsonschema_rs.meta.is_valid(schema):
        assert is_taken(schema)


ONE_KEYWORD: Final = st.builds(
    lambda keyword, value: {keyword: value},
    st.sampled_from(KEYWORDS),
    st.none()
    | st.booleans()
    | st.integers(-2, 3)
    | st.sampled_from(["string", "text", [], ["a"], ["a", "a"], [5], {}, {"a": 5}, [{}], 0.5]),
)


@settings(max_examples=400)
@given(ONE_KEYWORD)
def test_what_it_refuses_is_refused(schema: dict[str, Any]) -> None:
    if not isinstance(schema.get("items"), list):
        assert is_taken(schema) == jsonschema_rs.meta.is_valid(schema)


def test_the_older_form_of_items_is_taken() -> None:
    assert is_taken({"items": [{"type": "string"}]})
    assert not is_taken({"items": [5]})


@pytest.mark.parametrize(
    ("schema", "loc"),
    [
        (5, ()),
        ({"type": "text"}, ("type",)),
        ({"properties": {"a": {"items": 5}}}, ("properties", "a", "items")),
        ({"anyOf": [{}, "x"]}, ("anyOf", 1)),
        ({"required": "a"}, ("required",)),
    ],
)
def test_the_place_is_named(schema: Any, loc: tuple[str | int, ...]) -> None:
    with pytest.raises(NotASchemaError) as raised:
        check_schema(schema)
    assert raised.value.loc == loc


def test_a_nest_has_an_end() -> None:
    schema: dict[str, Any] = {}
    for _ in range(5000):
        schema = {"not": schema}
    assert not is_taken(schema)
