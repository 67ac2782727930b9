"""What saves time changes nothing that is found."""

from hypothesis import given, settings

from agentos.domain.policy.kinds import RECOGNISERS
from agentos.domain.policy.search import Search
from tests.domain.policy.texts import texts

EVERY = Search(RECOGNISERS)


@settings(max_examples=500, deadline=None)
@given(text=texts)
def test_short_cuts_lose_nothing(text: str) -> None:
    slow = [match for recogniser in RECOGNISERS for match in recogniser.find(text, 0)]
    assert sorted(EVERY.find(text), key=repr) == sorted(slow, key=repr)


@settings(max_examples=300, deadline=None)
@given(text=texts, more=texts)
def test_what_begins_before_the_open_end_stays_what_it_is(text: str, more: str) -> None:
    sure = EVERY.open_from(text, 0)
    now = [match for match in EVERY.find(text) if match.begin < sure]
    later = [match for match in EVERY.find(text + more) if match.begin < sure]
    assert sorted(now, key=repr) == sorted(later, key=repr)
