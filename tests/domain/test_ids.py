"""Ids: their shapes, their order, and which of them follow from what."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentos.domain.ids import NAMED_ID, TOOL_ID, crockford, derived_id, is_named_id, make_id

SHAPE = re.compile(r"^run_[0-9A-HJKMNP-TV-Z]{26}\Z")


@given(st.integers(0, 2**48 - 1), st.integers(0, 2**90))
def test_an_id_has_its_prefix_and_26_characters(now_ms: int, entropy: int) -> None:
    made = make_id("run", now_ms, entropy)
    assert SHAPE.match(made)
    assert is_named_id(made, "run")


@given(st.integers(0, 2**48 - 2), st.integers(0, 2**80 - 1), st.integers(0, 2**80 - 1))
def test_ids_sort_by_time(now_ms: int, one: int, other: int) -> None:
    assert make_id("run", now_ms, one) < make_id("run", now_ms + 1, other)


def test_crockford_has_no_letter_that_reads_as_another() -> None:
    assert not set("ILOU") & set(crockford((1 << 130) - 1) + crockford(0x123456789ABCDEF))


@given(st.lists(st.text(), min_size=1, max_size=4), st.lists(st.text(), min_size=1, max_size=4))
def test_a_derived_id_follows_from_its_parts_alone(one: list[str], other: list[str]) -> None:
    assert SHAPE.match(derived_id("run", *one))
    assert derived_id("run", *one) == derived_id("run", *one)
    if "\0".join(one) != "\0".join(other):
        assert derived_id("run", *one) != derived_id("run", *other)


@pytest.mark.parametrize("good", ["tnt_demo", "agt_sample_echo_v1", "ab_-", "run_" + "Z" * 100])
def test_names_that_fit(good: str) -> None:
    assert is_named_id(good)


BAD = [
    "",
    "demo",
    "tnt_",
    "tnt_a.b",
    "tnt_*",
    "tnt_>",
    "tnt_a b",
    "tnt_a\n",
    "tnt_a\nb",
    "\ntnt_a",
    "tnt_ä",
    "tnt_\u2028",
    "tnt_a\u0660",
    "TNT_a",
    "a_b",
    "abcdefghi_x",
    "run_" + "a" * 101,
    "tnt_a\0",
]


@pytest.mark.parametrize("bad", BAD)
def test_names_that_do_not(bad: str) -> None:
    assert not is_named_id(bad)


def test_a_prefix_is_compared_whole() -> None:
    assert is_named_id("run_1", "run")
    assert not is_named_id("runs_1", "run")


@given(st.text(max_size=40))
def test_whatever_matches_is_one_plain_token(text: str) -> None:
    if NAMED_ID.match(text):
        assert not set(text) & set(".*> \n\r\t")
        assert text.isascii()


@pytest.mark.parametrize("good", ["tool.echo", "tool.kv.put", "tool.a.b.c.d.e.f", "tool.x_-9"])
def test_tool_ids_that_fit(good: str) -> None:
    assert TOOL_ID.match(good)


@pytest.mark.parametrize(
    "bad", ["tool", "tool.", "tool.A", "tool.a.b.c.d.e.f.g", "tool.a\n", "xtool.a", "tool.*"]
)
def test_tool_ids_that_do_not(bad: str) -> None:
    assert not TOOL_ID.match(bad)
