from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentos.domain.errors import InvalidRequestError
from agentos.domain.ports import RequestedToolCall, ToolOffer
from agentos.infra.models.tool_names import ToolNames, function_name
from tests.infra.models.requests import request

SEGMENT = st.text("abcz09_-", min_size=1, max_size=40)
ALLOWED = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")


def names_of(*offers: ToolOffer) -> ToolNames:
    return ToolNames(request("openai/m", "x", tools=offers))


@given(st.lists(SEGMENT, min_size=1, max_size=6, unique=True))
def test_function_names_are_valid_and_lead_back(segments: list[str]) -> None:
    tool_id = ".".join(["tool", *segments])
    name = function_name(tool_id)
    assert 1 <= len(name) <= 64
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyzUX0123456789_-")
    offer = ToolOffer(tool_id, tool_id, "", {})
    assert names_of(offer).back(names_of(offer).of(offer)) == (tool_id, tool_id)
    if "_X" not in name:
        assert names_of().back(name) == (tool_id, tool_id)


@given(st.text(max_size=100), st.text(max_size=100))
def test_different_tools_have_different_valid_names(a: str, b: str) -> None:
    assert (function_name(a) == function_name(b)) == (a == b)
    assert len(function_name(a)) <= 64
    assert names_of().back(a) is not None


@given(st.lists(st.text(max_size=70), max_size=8, unique=True))
def test_offers_of_one_request_never_share_a_name(tool_ids: list[str]) -> None:
    offers = [ToolOffer(tool_id, tool_id, "", {}) for tool_id in tool_ids]
    names = names_of(*offers)
    wire = [names.of(offer) for offer in offers]
    assert len(set(wire)) == len(wire)
    for name, offer in zip(wire, offers, strict=True):
        assert 1 <= len(name) <= 64
        assert set(name) <= ALLOWED
        assert names.back(name) == (offer.tool_id, offer.name)


def test_a_callers_own_name_goes_as_it_is_unless_it_is_taken() -> None:
    kept = ToolOffer("tool.a.b", "tool.a.b", "", {})
    own = ToolOffer("tool_a_b", "tool_a_b", "", {})
    names = names_of(kept, own)
    assert names.of(kept) == "tool_a_b"
    assert names.of(own).startswith("tool-Ua-Ub_X") or names.of(own).startswith("tool_Ua_Ub_X")
    assert names.back(names.of(own)) == ("tool_a_b", "tool_a_b")
    assert names_of(own).of(own) == "tool_a_b"
    named = ToolOffer("tool.kv.put", "Keep-It", "", {})
    assert names_of(named).of(named) == "Keep-It"
    assert names_of(named).back("Keep-It") == ("tool.kv.put", "Keep-It")


def test_a_call_with_an_invented_name_can_be_sent_back() -> None:
    call = RequestedToolCall("tcall_1", "run shell!", "run shell!", {})
    assert names_of().of(call).startswith("run-shell-_X")
    assert names_of().of(replace(call, tool_id="free", name="free")) == "free"


def test_only_an_offered_tool_can_be_chosen() -> None:
    offer = ToolOffer("tool.kv.put", "put it", "", {})
    assert names_of(offer).chosen("put it") == names_of(offer).chosen("tool.kv.put")
    with pytest.raises(InvalidRequestError):
        names_of(offer).chosen("tool_kv_put")
