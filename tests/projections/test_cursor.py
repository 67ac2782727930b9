"""A cursor works for its tenant, list and filters, and for nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentos.domain.errors import InvalidRequestError
from agentos.projections.cursor import decode_cursor, encode_cursor
from agentos.projections.runs.queries import RunFilters

tenants = st.sampled_from(["tnt_a", "tnt_b"])
labels = st.tuples(st.sampled_from("ab"), st.sampled_from(["", "1", "b"]))
filters = st.builds(
    RunFilters,
    status=st.sampled_from([None, "running", "failed"]),
    agent_id=st.sampled_from([None, "agt_a"]),
    created_after=st.sampled_from([None, 1, 2]),
    created_before=st.sampled_from([None, 1, 2]),
    labels=st.lists(labels, max_size=2, unique=True).map(tuple),
)
keys = st.tuples(st.text(max_size=30), st.text(max_size=30))


@given(tenant=tenants, ours=filters, key=keys)
def test_it_comes_back_as_it_went(tenant: str, ours: RunFilters, key: tuple[str, str]) -> None:
    cursor = encode_cursor(tenant, ours.scope(), key)
    assert decode_cursor(tenant, ours.scope(), cursor, 2) == list(key)


@given(tenant=tenants, other=tenants, ours=filters, theirs=filters, key=keys)
def test_another_tenant_or_filter_is_refused(
    tenant: str, other: str, ours: RunFilters, theirs: RunFilters, key: tuple[str, str]
) -> None:
    cursor = encode_cursor(tenant, ours.scope(), key)
    if (tenant, ours.scope()) == (other, theirs.scope()):
        return
    with pytest.raises(InvalidRequestError) as caught:
        decode_cursor(other, theirs.scope(), cursor, 2)
    assert caught.value.details["errors"][0]["loc"] == ["query", "cursor"]


@given(cursor=st.text(max_size=60) | st.binary(max_size=60).map(lambda b: b.hex()))
def test_anything_else_is_refused(cursor: str) -> None:
    with pytest.raises(InvalidRequestError):
        decode_cursor("tnt_a", RunFilters().scope(), cursor, 2)


def test_one_changed_character_is_refused() -> None:
    scope = RunFilters().scope()
    cursor = encode_cursor("tnt_a", scope, ("2026-11-21T10:15:36.120Z", "run_1"))
    for index, character in enumerate(cursor[:-1]):
        changed = cursor[:index] + ("A" if character != "A" else "B") + cursor[index + 1 :]
        with pytest.raises(InvalidRequestError):
            decode_cursor("tnt_a", scope, changed, 2)
