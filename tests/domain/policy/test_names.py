"""Rules about persons and places: as any others, once there is something to find them with."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentos.domain.policy.compiled import CompiledPolicy, compile_policy
from agentos.domain.policy.document import PolicyDocument
from agentos.domain.policy.errors import PolicyProblemError
from agentos.domain.policy.facts import Facts
from tests.domain.policy.given_names import FewNames

FACTS = Facts()
pieces = st.lists(
    st.sampled_from(
        ["Ann", "Bo", " ", "Rome", "x", "ann@example.com", "An", "n", ". ", "Os", "lo"]
    ),
    max_size=12,
)


def policy(finder: FewNames | None = None, effect: str = "redact", **when: Any) -> CompiledPolicy:
    kinds = when.pop("pii_types", ["person", "location", "email"])
    rule = {"name": "r", "effect": effect, "when": {"pii_types": kinds, **when}}
    document = PolicyDocument.model_validate({"name": "P", "rules": [rule]})
    return compile_policy("pol_a", "1", document, finder or FewNames())


@pytest.mark.parametrize("kind", ["person", "location"])
def test_without_a_finder_such_a_policy_is_refused(kind: str) -> None:
    rule = {"name": "r", "effect": "block", "when": {"pii_types": ["email", kind]}}
    document = PolicyDocument.model_validate({"name": "P", "rules": [rule]})
    with pytest.raises(PolicyProblemError, match="no recogniser for it is installed"):
        compile_policy("pol_a", "1", document)


def test_names_are_hidden_beside_the_other_kinds() -> None:
    text = "Ann (ann@example.com) is in Rome"
    verdict = policy().check([("f", text)], FACTS)
    assert verdict.apply("f", text) == "[PERSON] ([EMAIL]) is in [LOCATION]"
    assert verdict.findings == {"person": 1, "location": 1, "email": 1}


def test_only_the_kinds_that_a_rule_is_about() -> None:
    verdict = policy(pii_types=["location"]).check([("f", "Ann in Rome")], FACTS)
    assert verdict.apply("f", "Ann in Rome") == "Ann in [LOCATION]"
    assert verdict.findings == {"location": 1}


def test_a_rule_may_block_or_ask() -> None:
    assert policy(effect="block").check([("f", "to Bo")], FACTS).is_blocked
    asking = policy(effect="require_approval").check([("f", "to Bo")], FACTS)
    assert asking.needs_approval
    assert not policy(effect="block").check([("f", "to nobody")], FACTS).is_blocked


def test_names_of_tools_and_properties_are_not_searched_for_names() -> None:
    finder = FewNames()
    verdict = policy(finder, effect="block").check([("tools[0].*", "Rome\nAnn")], FACTS)
    assert (verdict.is_blocked, finder.asked) == (False, [])
    verdict = policy(finder).check([("f", "Ann"), ("tools[0].*", "ann@example.com")], FACTS)
    assert verdict.findings == {"person": 1, "email": 1}
    assert (verdict.is_blocked, verdict.redactions) == (True, ())
    assert verdict.reasons == ("pol_a@1", "redact:r", "cannot_redact:tools[0].*")


def test_a_policy_about_other_kinds_asks_nobody() -> None:
    finder = FewNames()
    other = policy(finder, pii_types=["email"])
    assert other.finder is None
    other.check([("f", "Ann")], FACTS)
    elsewhere = policy(finder, direction=["output"])
    elsewhere.check([("f", "Ann")], FACTS)
    assert finder.asked == []


@given(pieces)
def test_a_stream_is_held_to_its_end_and_comes_to_the_same(parts: list[str]) -> None:
    finder = FewNames()
    guarded = policy(finder)
    guard = guarded.stream(FACTS)
    assert "".join(guard.feed(part) for part in parts) == ""
    assert finder.asked == []
    text = "".join(parts)
    assert guard.held == text
    whole = guarded.check([("output.content", text)], FACTS)
    assert guard.finish() == whole.apply("output.content", text)
    assert guard.verdict == whole


@given(pieces)
def test_a_stream_that_is_blocked_gives_nothing(parts: list[str]) -> None:
    guarded = policy(effect="block")
    guard = guarded.stream(FACTS)
    out = "".join(guard.feed(part) for part in parts) + guard.finish()
    whole = guarded.check([("output.content", "".join(parts))], FACTS)
    assert guard.is_blocked == whole.is_blocked
    assert out == ("" if whole.is_blocked else "".join(parts))
