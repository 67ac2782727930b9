"""Whether a rule's circumstances hold: everything but the content, known before it is read."""

from collections.abc import Callable, Sequence

from agentos.domain.policy.document import Circumstances, Rule
from agentos.domain.policy.facts import Facts

Test = Callable[[Facts], bool]
FACTS = {
    "direction": "direction",
    "model": "model",
    "tier": "tier",
    "backend": "backend",
    "tool": "tool",
    "data_classification": "data_classification",
    "region": "region",
    "purpose": "purpose",
    "agent": "agent_id",
    "principal": "principal_id",
}


def test_of(rule: Rule) -> Test:
    """Return the test of whether the rule is in question for these facts."""
    holds = _all(_tests(rule.when))
    if rule.unless is None:
        return holds
    never = _all(_tests(rule.unless))
    return lambda facts: holds(facts) and not never(facts)


def _all(tests: Sequence[Test]) -> Test:
    if len(tests) == 1:
        return tests[0]
    return lambda facts: all(test(facts) for test in tests)


def _tests(circumstances: Circumstances) -> list[Test]:
    found: list[Test] = []
    for name, fact in FACTS.items():
        if (names := getattr(circumstances, name)) is not None:
            found.append(_named(fact, names))
    if (time := circumstances.time_of_day) is not None:
        found.append(lambda facts: time.holds(facts.now_ms))
    for label, names in (circumstances.labels or {}).items():
        found.append(_labelled(label, names))
    return found


def _named(fact: str, names: tuple[str, ...]) -> Test:
    exact = frozenset(name for name in names if "*" not in name)
    wild = tuple(name for name in names if "*" in name)

    def test(facts: Facts) -> bool:
        value = getattr(facts, fact)
        if value in exact:
            return True
        return value is not None and any(fits(name, value) for name in wild)

    return test


def _labelled(label: str, names: tuple[str, ...]) -> Test:
    def test(facts: Facts) -> bool:
        value = facts.labels.get(label)
        return value is not None and any(fits(name, value) for name in names)

    return test


def fits(name: str, value: str) -> bool:
    """Whether `value` is that name; one `*` in the name stands for any text."""
    head, star, tail = name.partition("*")
    if not star:
        return name == value
    long_enough = len(value) >= len(head) + len(tail)
    return long_enough and value.startswith(head) and value.endswith(tail)
