"""Which regular expressions a policy may bring, and that those cannot take long."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentos.domain.policy.document import ContentPattern
from agentos.domain.policy.errors import PolicyProblemError
from agentos.domain.policy.open_tail import open_tail
from agentos.domain.policy.patterns import MAX_STEPS, compile_pattern


def compiled(regex: str, *, ignore_case: bool = False) -> tuple[re.Pattern[str], int]:
    return compile_pattern(ContentPattern(name="p", regex=regex, ignore_case=ignore_case))


@pytest.mark.parametrize(
    "regex",
    [
        r"\bPRJ-[0-9]{1,6}\b",
        r"confidential.{0,60}merger",
        r"project\s{1,3}(?:falcon|eagle|hawk)",
        r"(?:\d{3}-){2}\d{4}",
        r"^DROP TABLE\b",
        r"end\Z",
        r"[^\s@]{1,64}@acme\.com",
        r"(a|bc|d{1,3})x?y?z?",
        "ключ: [0-9]{4}",
    ],
)
def test_these_are_taken(regex: str) -> None:
    assert 0 < compiled(regex)[1] <= MAX_STEPS


@pytest.mark.parametrize(
    ("regex", "said"),
    [
        ("a+", "repeats without an end"),
        ("(a+)+b", "repeats without an end"),
        ("(?:a|a){1,30}b{1,3}(?:(?:x|xx){1,30})", "varies in itself"),
        ("(?:a{1,10}){1,10}", "varies in itself"),
        ("(?:a?){1,10}", "varies in itself"),
        (".{1,100}.{1,100}", "steps at each character"),
        ("a{1,200}a{1,200}b", "steps at each character"),
        (r"(a)\1", "back-reference"),
        ("(?=a)b", "look-around"),
        ("(?<!a)b", "look-around"),
        ("a$", "no `\\$`"),
        ("(?i:a)b", "inline flag"),
        ("(?s)a.b", "no flag"),
        ("a*+", "possessive"),
        ("(?>a)", "possessive"),
        ("(", "no regular expression"),
        ("[z-a]", "no regular expression"),
        ("a{0,3}", "an empty text"),
        (r"\b", "an empty text"),
        ("x{2000}", "could match 2000 characters"),
        ("a{5000000000}", "no regular expression"),
        ("(" * 20 + "a" + ")" * 20, "nested deeper"),
    ],
)
def test_these_are_not_and_it_says_why(regex: str, said: str) -> None:
    with pytest.raises(PolicyProblemError, match=said):
        compiled(regex)


def test_counting_the_steps_takes_no_time_itself() -> None:
    with pytest.raises(PolicyProblemError, match="steps at each character"):
        compiled("a?" * 127 + "b")


singles = st.sampled_from(["a", "b", "1", r"\d", r"\w", ".", "[ab]", "[^a]", r"\s", "é"])
repeats = st.builds(
    lambda one, low, more: f"{one}{{{low},{low + more}}}",
    singles,
    st.integers(0, 2),
    st.integers(0, 3),
)
items = st.one_of(singles, repeats, st.sampled_from([r"\b", r"\B", "ab", "a1b"]))
sequences = st.lists(items, min_size=1, max_size=4).map("".join)
regexes = st.one_of(
    sequences,
    st.lists(sequences, min_size=2, max_size=3).map(lambda s: f"(?:{'|'.join(s)})"),
    st.builds(lambda a, b, c: f"{a}(?:{b})?{c}", sequences, sequences, sequences),
)


@settings(max_examples=600, deadline=None)
@given(regex=regexes, text=st.text("ab1 é_", max_size=12), more=st.text("ab1 é_", max_size=6))
def test_no_match_of_a_longer_text_begins_unseen(regex: str, text: str, more: str) -> None:
    """What begins before the open end is decided: the longer text has the very same there."""
    try:
        pattern, _ = compiled(regex)
    except PolicyProblemError:
        return
    tail = re.compile(open_tail(pattern))
    for start in range(len(text)):
        found = tail.search(text, start)
        sure = len(text) if found is None else found.start()
        now = [m.span() for m in pattern.finditer(text, start) if m.start() < sure]
        later = [m.span() for m in pattern.finditer(text + more, start) if m.start() < sure]
        assert now == later, (start, sure)
