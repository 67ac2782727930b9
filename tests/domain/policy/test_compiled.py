"""Rules together: which effect wins, which rule names it, and what the circumstances decide."""

from typing import Any

import pytest

from agentos.domain.policy.builtin import default_policy
from agentos.domain.policy.compiled import CompiledPolicy, compile_policy
from agentos.domain.policy.document import PolicyDocument
from agentos.domain.policy.errors import PolicyProblemError
from agentos.domain.policy.facts import Facts

EMAIL = {"pii_types": ["email"]}
CARD = {"pii_types": ["credit_card"]}
TEXT = "a@example.com pays by 4111 1111 1111 1111"


def policy(*rules: dict[str, Any]) -> CompiledPolicy:
    document = {"name": "T", "rules": [{"name": f"r{at}", **r} for at, r in enumerate(rules)]}
    return compile_policy("pol_t", "7", PolicyDocument.model_validate(document))


def rule(effect: str, **when: Any) -> dict[str, Any]:
    return {"effect": effect, "when": when}


@pytest.mark.parametrize(
    ("rules", "decision", "reasons"),
    [
        ([], "allowed", ("pol_t@7",)),
        ([rule("allow")], "allowed", ("pol_t@7", "allow:r0")),
        ([rule("allow"), rule("redact", **EMAIL)], "redacted", ("pol_t@7", "redact:r1")),
        (
            [rule("redact", **EMAIL), rule("require_approval", **CARD)],
            "blocked",
            ("pol_t@7", "approval_required:r1"),
        ),
        (
            [rule("require_approval", **CARD), rule("allow"), rule("block", **EMAIL)],
            "blocked",
            ("pol_t@7", "block:r2"),
        ),
        ([rule("block", **CARD), rule("block", **EMAIL)], "blocked", ("pol_t@7", "block:r0")),
        ([rule("redact", **CARD), rule("redact", **EMAIL)], "redacted", ("pol_t@7", "redact:r0")),
        ([rule("block", pii_types=["iban"])], "allowed", ("pol_t@7",)),
        ([rule("block")], "blocked", ("pol_t@7", "block:r0")),
    ],
)
def test_the_strongest_effect_wins_and_the_first_of_it_names_the_rule(
    rules: list[dict[str, Any]], decision: str, reasons: tuple[str, ...]
) -> None:
    verdict = policy(*rules).check([("t", TEXT)], Facts())
    assert (verdict.decision, verdict.reasons) == (decision, reasons)
    assert verdict.needs_approval == any("approval" in reason for reason in reasons)
    assert bool(verdict.redactions) == (decision == "redacted")


def test_all_rules_that_redact_do_so() -> None:
    verdict = policy(rule("redact", **CARD), rule("redact", **EMAIL)).check([("t", TEXT)], Facts())
    assert verdict.apply("t", TEXT) == "[EMAIL] pays by [CREDIT_CARD]"
    assert verdict.rules == ("r0", "r1")
    assert verdict.findings == {"email": 1, "credit_card": 1}


def test_each_field_has_its_own_offsets() -> None:
    fields = [("messages[0].content", "x a@example.com"), ("messages[1].content", "a@example.com")]
    verdict = policy(rule("redact", **EMAIL)).check(fields, Facts())
    assert [(r.field, r.start, r.end) for r in verdict.redactions] == [
        ("messages[0].content", 2, 15),
        ("messages[1].content", 0, 13),
    ]
    assert [verdict.apply(field, text) for field, text in fields] == ["x [EMAIL]", "[EMAIL]"]
    assert verdict.apply("other", "a@example.com") == "a@example.com"


def test_offsets_are_code_points() -> None:
    verdict = policy(rule("redact", **EMAIL)).check([("t", "😀é a@example.com 😀")], Facts())
    (redaction,) = verdict.redactions
    assert (redaction.start, redaction.end) == (3, 16)


def test_matches_that_overlap_are_one_redaction_named_by_the_longest() -> None:
    patterns = [{"name": "domain", "regex": r"example\.com/[a-z]{1,9}"}]
    both = policy(rule("redact", **EMAIL), rule("redact", content_patterns=patterns))
    text = "see joe@example.com/path now"
    verdict = both.check([("t", text)], Facts())
    (redaction,) = verdict.redactions
    assert text[redaction.start : redaction.end] == "joe@example.com/path"
    assert redaction.type == "domain"
    assert verdict.apply("t", text) == "see [DOMAIN] now"


FACTS = Facts(
    direction="tool_input",
    model="openai/gpt-large",
    tier="premium",
    backend="openai",
    tool="tool.http.fetch",
    data_classification="confidential",
    region="eu-west",
    purpose="support",
    now_ms=(23 * 60 + 30) * 60_000,
    agent_id="agt_a",
    principal_id="usr_anna",
    labels={"team": "sales", "stage": "test"},
)


@pytest.mark.parametrize(
    ("when", "holds"),
    [
        ({"direction": ["tool_input", "tool_output"]}, True),
        ({"direction": ["input"]}, False),
        ({"model": ["openai/*"]}, True),
        ({"model": ["*-large"]}, True),
        ({"model": ["openai/*-large"]}, True),
        ({"model": ["openai/gpt"]}, False),
        ({"tier": ["premium"]}, True),
        ({"backend": ["anthropic", "openai"]}, True),
        ({"tool": ["tool.http.*"]}, True),
        ({"tool": ["tool.kv.*"]}, False),
        ({"data_classification": ["confidential"]}, True),
        ({"region": ["us*"]}, False),
        ({"purpose": ["support"], "region": ["eu*"]}, True),
        ({"purpose": ["support"], "region": ["us*"]}, False),
        ({"agent": ["agt_a"]}, True),
        ({"principal": ["svc_*"]}, False),
        ({"labels": {"team": ["sales", "hr"]}}, True),
        ({"labels": {"team": ["sales"], "stage": ["live"]}}, False),
        ({"labels": {"other": ["*"]}}, False),
        ({"labels": {"team": ["*"]}}, True),
        ({"time_of_day": {"begin": "22:00", "end": "06:00"}}, True),
        ({"time_of_day": {"begin": "06:00", "end": "22:00"}}, False),
        ({"time_of_day": {"begin": "23:30", "end": "23:31"}}, True),
        ({"time_of_day": {"begin": "23:00", "end": "23:30"}}, False),
    ],
)
def test_circumstances(when: dict[str, Any], holds: bool) -> None:
    blocks = policy({"effect": "block", "when": when})
    assert blocks.check([("t", "x")], FACTS).is_blocked is holds
    unless = policy({"effect": "block", "unless": when})
    assert unless.check([("t", "x")], FACTS).is_blocked is not holds


@pytest.mark.parametrize(
    "name", ["model", "tier", "backend", "tool", "region", "agent", "principal", "purpose"]
)
def test_what_is_not_known_is_no_name_at_all(name: str) -> None:
    assert not policy({"effect": "block", "when": {name: ["*"]}}).check([], Facts()).is_blocked


def test_content_is_any_of_its_kinds_and_patterns_and_only_in_the_circumstances() -> None:
    patterns = [{"name": "falcon", "regex": "falcon", "ignore_case": True}]
    blocks = policy(rule("block", **CARD, content_patterns=patterns, direction=["output"]))
    output = Facts(direction="output")
    assert blocks.check([("t", "project FALCON")], output).is_blocked
    assert blocks.check([("t", TEXT)], output).is_blocked
    assert not blocks.check([("t", "nothing")], output).is_blocked
    assert not blocks.check([("t", TEXT)], Facts()).is_blocked


def test_findings_are_counts_of_what_was_looked_for() -> None:
    verdict = default_policy().check([("a", "x@y.de z@y.de"), ("b", "x@y.de")], Facts())
    assert verdict.findings == {"email": 3}
    assert default_policy().check([("a", "x@y.de")], Facts(direction="tool_input")).findings == {}


def test_the_built_in_policy_blocks_nothing() -> None:
    text = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEF password: hunter22x!"
    for direction in ("input", "output"):
        verdict = default_policy().check([("t", text)], Facts(direction=direction))
        assert verdict.decision == "redacted"
        assert verdict.reasons == ("pol_default@1", "redact:personal_data_and_secrets")


def test_the_outcome_is_the_contracts() -> None:
    outcome = policy(rule("redact", **EMAIL)).check([("t", "a@example.com")], Facts()).outcome()
    redaction = {"type": "email", "start": 0, "end": 13, "replacement": "[EMAIL]", "field": "t"}
    assert outcome == {
        "decision": "redacted",
        "reasons": ["pol_t@7", "redact:r0"],
        "redactions": [redaction],
    }


def test_a_problem_names_the_rule() -> None:
    with pytest.raises(PolicyProblemError, match="rule 'r0': there is no kind 'emial'"):
        policy(rule("block", pii_types=["emial"]))


def test_all_patterns_together_have_a_bound() -> None:
    patterns = [{"name": f"p{n}", "regex": r"x.{0,200}yz"} for n in range(20)]
    with pytest.raises(PolicyProblemError, match="all content patterns together"):
        policy(rule("block", content_patterns=patterns))
