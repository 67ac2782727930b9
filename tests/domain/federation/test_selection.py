"""Which node is chosen."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentos.domain.errors import ConflictError, NotFoundError
from agentos.domain.federation.peer import Capabilities, Endpoints, PeerInfo, negotiated
from agentos.domain.federation.selection import Candidate, Selector, choose, missing

ABLE = Capabilities(
    supports={"runs_forward": True, "events_stream": True},
    features=("runs.forward", "events.ingest"),
    models={"tiers": ["fast", "balanced"]},
    protocol="1.0",
)


def node(stack_id: str, region: str = "eu", load: int = 0, **more: bool) -> Candidate:
    """Return a place for a run."""
    endpoints = Endpoints(orchestrator="http://x.example")
    info = PeerInfo(stack_id=stack_id, region=region, endpoints=endpoints)
    return Candidate(info, ABLE, load, **more)


LOCAL = node("stk_a", "us")


def test_both_spellings_of_a_capability() -> None:
    for name in ("runs.forward", "runs_forward", "events.ingest", "events_stream"):
        assert missing(Selector(required_capabilities=(name,)), node("stk_b")) == []
    assert missing(Selector(required_capabilities=("teleport",)), node("stk_b")) == ["teleport"]


def test_tier_and_region() -> None:
    assert missing(Selector(preferred_model_tier="fast"), node("stk_b")) == []
    assert missing(Selector(preferred_model_tier="premium"), node("stk_b")) == [
        "model tier premium"
    ]
    assert missing(Selector(region="us"), node("stk_b")) == ["region us"]
    none = replace(node("stk_b"), capabilities=ABLE.model_copy(update={"models": {"tiers": []}}))
    assert missing(Selector(preferred_model_tier="fast"), none) == ["model tier fast"]
    silent = replace(node("stk_b"), capabilities=ABLE.model_copy(update={"models": {}}))
    assert missing(Selector(preferred_model_tier="fast"), silent) == []  # the call tells


def test_versions() -> None:
    assert [negotiated(text) for text in ("0", "1.0", "1.9", "0.9")] == ["0", "1.0", "1.0", "0.9"]


def test_who_is_named_is_taken_even_if_it_is_not_heard() -> None:
    lost = node("stk_b", is_live=False)
    assert choose(Selector(stack_id="stk_b"), LOCAL, [lost]) is lost
    with pytest.raises(NotFoundError) as raised:
        choose(Selector(stack_id="stk_c"), LOCAL, [lost])
    assert raised.value.details["stack_id"] == "stk_c"
    with pytest.raises(NotFoundError):
        choose(Selector(stack_id="stk_b"), LOCAL, [node("stk_b", serves=False)])


def test_no_live_peer_and_none_that_fits() -> None:
    with pytest.raises(NotFoundError):
        choose(Selector(region="eu"), LOCAL, [node("stk_b", is_live=False)])
    with pytest.raises(ConflictError) as raised:
        choose(Selector(region="mars"), LOCAL, [node("stk_b")])
    assert raised.value.details["missing"] == ["region mars"]


@given(
    st.lists(
        st.tuples(st.sampled_from(["eu", "us"]), st.integers(0, 9), st.booleans(), st.booleans()),
        max_size=8,
    ),
    st.sampled_from([None, "eu", "us", "mars"]),
)
def test_the_choice_is_the_least_loaded_of_those_that_fit(
    peers: list[tuple[str, int, bool, bool]], region: str | None
) -> None:
    nodes = [
        node(f"stk_{at}", where, load, is_live=live, serves=serves)
        for at, (where, load, live, serves) in enumerate(peers)
    ]
    selector = Selector(region=region)
    fitting = [n for n in nodes if n.is_live and n.serves and n.info.region == region]
    if region in (None, "us"):
        assert choose(selector, LOCAL, nodes) is LOCAL
    elif fitting:
        chosen = choose(selector, LOCAL, nodes)
        assert chosen in fitting
        assert chosen.load == min(n.load for n in fitting)
    else:
        with pytest.raises((NotFoundError, ConflictError)):
            choose(selector, LOCAL, nodes)
