"""Who says how long what is kept, and what nobody may say."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from agentos.domain.errors import InvalidRequestError
from agentos.domain.retention.rules import (
    KEPT_WHOLE,
    KINDS,
    LEAST_MS,
    UNITS,
    Kind,
    NodeRetention,
    Retention,
    age_ms,
    in_words,
)

AGES = st.builds(lambda n, unit: f"{n}{unit}", st.integers(1, 999_999_999), st.sampled_from("smhd"))
SAID = st.one_of(st.none(), st.just("forever"), AGES)


@given(AGES)
def test_an_age_reads_as_it_is_written(text: str) -> None:
    ms = age_ms(text)
    assert ms == int(text[:-1]) * UNITS[text[-1]]
    assert age_ms(in_words(ms)) == ms


@pytest.mark.parametrize(
    "text", ["", "0d", "-1d", "1.5h", "90", "90 d", "d", "1w", "1d\n", "\u0661d"]
)
def test_what_is_no_age_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no age"):
        age_ms(text)
    with pytest.raises(ValidationError):
        Retention(runs=text)


@pytest.mark.parametrize("kind", [*KEPT_WHOLE, "tenant", "key", "agent", "policy"])
def test_what_is_kept_whole_cannot_be_asked_for(kind: str) -> None:
    with pytest.raises(ValidationError, match="is kept whole"):
        Retention.model_validate({kind: "90d"})


def test_an_unknown_kind_is_ignored() -> None:
    assert Retention.model_validate({"cheese": "90d"}) == Retention()


@given(node=SAID, own=SAID, kind=st.sampled_from(KINDS), has_archive=st.booleans())
def test_the_tenant_s_word_goes_first_and_nothing_is_kept_shorter_than_allowed(
    node: str | None, own: str | None, kind: Kind, has_archive: bool
) -> None:
    ages = {kind: age_ms(node)} if node not in (None, "forever") else {}
    rules = NodeRetention(ages, LEAST_MS, has_archive)  # type: ignore[arg-type]
    found = rules.age_ms(Retention.model_validate({kind: own} if own else {}), kind)
    said = own or node
    if said in (None, "forever") or (kind == "usage" and not has_archive):
        assert found is None
    else:
        assert found == max(LEAST_MS, age_ms(said) or 0)


def test_by_default_everything_is_kept() -> None:
    assert all(NodeRetention().age_ms(None, kind) is None for kind in KINDS)


def test_a_wish_that_cannot_be_met_is_refused() -> None:
    rules = NodeRetention.of({"runs": "90d"}, least_ms=LEAST_MS, has_archive=False)
    rules.require(None)
    rules.require(Retention(runs="1d", usage="forever"))
    with pytest.raises(InvalidRequestError, match="1d at least"):
        rules.require(Retention(runs="23h"))
    with pytest.raises(InvalidRequestError, match="bills"):
        rules.require(Retention(usage="400d"))
    for bad in ({"runs": "1h"}, {"usage": "400d"}):
        with pytest.raises(ValueError, match=r"at least|bills"):
            NodeRetention.of(bad, least_ms=LEAST_MS, has_archive=False)  # type: ignore[arg-type]
