"""A streamed text is what the whole text would be, however it is cut, and waits for little."""

import pytest
from hypothesis import given, settings

from agentos.domain.policy.builtin import default_policy
from agentos.domain.policy.compiled import CompiledPolicy, compile_policy
from agentos.domain.policy.document import PolicyDocument
from agentos.domain.policy.facts import Facts
from agentos.domain.policy.kinds import GROUPS, KINDS
from agentos.domain.policy.stream import StreamGuard
from tests.domain.policy.texts import cut_texts

OUTPUT = Facts(direction="output")
FIELD = "output.content"


def policy(*rules: dict[str, object]) -> CompiledPolicy:
    document = {"name": "T", "rules": [{"name": f"r{at}", **r} for at, r in enumerate(rules)]}
    return compile_policy("pol_t", "1", PolicyDocument.model_validate(document))


PATTERNS = [
    {"name": "project", "regex": r"\bPRJ-[0-9]{1,6}\b"},
    {"name": "deal", "regex": r"confidential.{0,40}merger", "ignore_case": True},
    {"name": "odd", "regex": r"(?:ab|e)[^@]{2,5}(?:o|example)\B"},
    {"name": "first", "regex": r"^\w{1,5}"},
]
EVERYTHING = policy(
    {"effect": "redact", "when": {"pii_types": list(KINDS)}},
    {"effect": "redact", "when": {"content_patterns": PATTERNS}},
)
BLOCKS = policy(
    {"effect": "redact", "when": {"pii_types": ["email", "national_id", "secret", "phone"]}},
    {"effect": "block", "when": {"pii_types": ["credit_card"]}},
)


def streamed(guard: StreamGuard, pieces: list[str]) -> str:
    return "".join([guard.feed(piece) for piece in pieces]) + guard.finish()


@pytest.mark.parametrize("found", [EVERYTHING, default_policy()], ids=["everything", "default"])
@settings(max_examples=400, deadline=None)
@given(pieces=cut_texts())
def test_any_cut_gives_what_the_whole_gives(found: CompiledPolicy, pieces: list[str]) -> None:
    text = "".join(pieces)
    whole = found.check([(FIELD, text)], OUTPUT)
    guard = found.stream(OUTPUT)
    assert streamed(guard, pieces) == whole.apply(FIELD, text)
    assert guard.verdict == whole


@settings(max_examples=400, deadline=None)
@given(pieces=cut_texts())
def test_a_block_is_found_and_nothing_from_its_match_on_comes_out(pieces: list[str]) -> None:
    text = "".join(pieces)
    whole = BLOCKS.check([(FIELD, text)], OUTPUT)
    guard = BLOCKS.stream(OUTPUT)
    out = streamed(guard, pieces)
    assert guard.is_blocked == whole.is_blocked
    assert (guard.verdict.decision, guard.verdict.reasons) == (whole.decision, whole.reasons)
    if not whole.is_blocked:
        assert out == whole.apply(FIELD, text)
        return
    cards = policy({"effect": "redact", "when": {"pii_types": ["credit_card"]}})
    (first, *_) = cards.check([(FIELD, text)], OUTPUT).redactions
    redacted = policy(
        {"effect": "redact", "when": {"pii_types": ["email", "national_id", "secret", "phone"]}}
    )
    assert redacted.check([(FIELD, text)], OUTPUT).apply(FIELD, text).startswith(out)
    assert len(out) <= first.start + 20 * len(whole.findings)


PROSE = 'Of course! Here is a summary: it works, and then (so they say) it rests? Yes; "often".\n'


def test_prose_that_ends_in_space_or_punctuation_goes_out_at_once() -> None:
    for end in range(1, len(PROSE)):
        begun = PROSE[:end]
        if begun[-1] in ' !?;:,)"\n':
            assert default_policy().stream(OUTPUT).feed(begun) == begun, begun


@pytest.mark.parametrize(
    ("text", "out"),
    [
        ("Hello wor", "Hello "),
        ("mail me at john", "mail me at "),
        ("john.doe@example.com", ""),
        ("john.doe@example.com ", "[EMAIL] "),
        ("john.doe@example.com, ", "[EMAIL], "),
        ("call +49 30 12", "call "),
        ("call +49 30 1234567! ", "call [PHONE]! "),
        ("card 4111 1111 1111 1111", "card "),
        ("in 2024 ", "in "),
        ("in 2024, we", "in 2024, "),
        ("the password ", "the "),
        ("the password is", "the password "),
        ("password: hunter22x!", ""),
        ("password: hunter22x! ", "password: [GENERIC_SECRET] "),
        ("a -----BEGIN PRIVATE KEY-----\nMIIE", "a "),
        ("IBAN DE89 3704", "IBAN "),
    ],
)
def test_what_is_held_back(text: str, out: str) -> None:
    assert default_policy().stream(OUTPUT).feed(text) == out


def test_a_key_in_many_pieces_is_one_redaction_and_the_rest_flows() -> None:
    body = "\n".join("MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQ" for _ in range(40))
    text = f"x: -----BEGIN RSA PRIVATE KEY-----\n{body}\n-----END RSA PRIVATE KEY-----\nAll done. "
    guard = default_policy().stream(OUTPUT)
    out = [guard.feed(text[at : at + 7]) for at in range(0, len(text), 7)]
    assert "".join(out) == "x: [PRIVATE_KEY]\nAll done. "


@pytest.mark.parametrize(
    "noise", ["x", "1", "a ", "7 ", "key=a", "-----BEGIN PRIVATE KEY-----A", "a."]
)
def test_memory_is_bounded_whatever_comes(noise: str) -> None:
    guard = EVERYTHING.stream(OUTPUT)
    for _ in range(400):
        guard.feed(noise * (500 // len(noise)))
        assert len(guard._text) < 20_000


def test_a_rule_without_content_blocks_from_the_beginning() -> None:
    guard = policy({"effect": "block", "when": {"direction": ["output"]}}).stream(OUTPUT)
    assert guard.is_blocked
    assert guard.feed("anything ") == guard.finish() == ""
    assert guard.verdict.reasons == ("pol_t@1", "block:r0")


def test_without_anything_to_look_for_everything_passes() -> None:
    guard = policy().stream(OUTPUT)
    assert guard.feed("john.d") == "john.d"
    assert guard.finish() == ""
    assert guard.verdict.decision == "allowed"


def test_the_groups_name_kinds_that_are_there() -> None:
    assert {kind for kinds in GROUPS.values() for kind in kinds} <= set(KINDS)
