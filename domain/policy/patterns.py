"""The regular expressions that a policy may bring: those that cannot take long.

There is no time limit and none is needed. A repeat has an upper bound, nothing that varies is
repeated, and the steps that the matcher can take from one character of a text are counted
beforehand (`steps`), with all its ways back. What an expression can match has a longest form,
so a stream knows how much it must keep.
"""

import re
from collections.abc import Sequence
from re import _constants as c  # type: ignore[attr-defined, unused-ignore]  # as open_tail
from typing import Any, Final

from agentos.domain.policy.document import ContentPattern
from agentos.domain.policy.errors import PolicyProblemError
from agentos.domain.policy.open_tail import CATEGORIES, PLACES, Node, parse

MAX_STEPS: Final = 1_000
MAX_STEPS_OF_ALL: Final = 5_000
MAX_WIDTH: Final = 1_000
MAX_DEPTH: Final = 8
Letters = frozenset[int]
OTHER: Final = -1  # any character beyond ASCII
EVERY: Final[Letters] = frozenset(range(-1, 128))


def compile_pattern(pattern: ContentPattern) -> tuple[re.Pattern[str], int]:
    """Return the compiled expression and its steps; `PolicyProblemError` for one not taken."""
    flags = re.IGNORECASE if pattern.ignore_case else 0
    try:
        nodes, found_flags = parse(pattern.regex, flags)
        compiled = re.compile(pattern.regex, flags)
    except (re.error, OverflowError, RecursionError) as exc:
        raise _problem(pattern, f"no regular expression: {exc}") from exc
    if found_flags & ~(re.IGNORECASE | re.UNICODE):
        raise _problem(pattern, "takes no flag but `ignore_case`")
    _check(pattern, nodes, 0)
    low, high = width(nodes)
    if low == 0:
        raise _problem(pattern, "would match an empty text")
    if high > MAX_WIDTH:
        raise _problem(pattern, f"could match {high} characters; at most {MAX_WIDTH} are taken")
    cost = steps(nodes, bool(found_flags & re.IGNORECASE))
    if cost > MAX_STEPS:
        raise _problem(
            pattern,
            f"could take {cost} steps at each character; at most {MAX_STEPS} are taken: "
            "make its repeats shorter, or let what follows a repeat begin with a character "
            "that the repeat does not take",
        )
    return compiled, cost


def _problem(pattern: ContentPattern, said: str) -> PolicyProblemError:
    return PolicyProblemError(f"content pattern {pattern.name!r}: {said}")


def _check(pattern: ContentPattern, nodes: Sequence[Node], depth: int) -> None:
    if depth > MAX_DEPTH:
        raise _problem(pattern, f"is nested deeper than {MAX_DEPTH} groups")
    for kind, value in nodes:
        if kind in (c.LITERAL, c.NOT_LITERAL, c.ANY, c.IN):
            continue
        if kind is c.AT and value in PLACES:
            continue
        if kind is c.BRANCH:
            for branch in value[1]:
                _check(pattern, list(branch), depth + 1)
        elif kind is c.SUBPATTERN and not (value[1] or value[2]):
            _check(pattern, list(value[3]), depth + 1)
        elif kind in (c.MAX_REPEAT, c.MIN_REPEAT):
            _check_repeat(pattern, value, depth)
        else:
            raise _problem(
                pattern,
                r"takes characters, classes, groups, `|`, bounded repeats, `\b`, `\B`, `^`, `\A` "
                r"and `\Z`; no `$`, look-around, back-reference, inline flag or possessive repeat",
            )


def _check_repeat(pattern: ContentPattern, value: Any, depth: int) -> None:
    _, high, inner = value
    parts = list(inner)
    if high is c.MAXREPEAT:
        raise _problem(pattern, "repeats without an end; write {1,64} instead of +, {0,64} of *")
    _check(pattern, parts, depth + 1)
    low_width, high_width = width(parts)
    if low_width == 0 and not parts:
        raise _problem(pattern, "repeats nothing")
    if high > 1 and (low_width != high_width or low_width == 0 or _has_choice(parts)):
        raise _problem(pattern, "repeats a group that varies in itself; repeat single characters")


def _has_choice(nodes: Sequence[Node]) -> bool:
    for kind, value in nodes:
        if kind is c.BRANCH:
            return True
        if kind is c.SUBPATTERN and _has_choice(list(value[3])):
            return True
        if kind in (c.MAX_REPEAT, c.MIN_REPEAT) and _has_choice(list(value[2])):
            return True
    return False


def steps(nodes: Sequence[Node], ignore_case: bool) -> int:
    """Return how many characters the matcher looks at, at most, from one place of a text."""
    return _Count(ignore_case).sequence(nodes, 1, frozenset())


class _Count:
    """Counts from the end: `behind` is what the rest costs, `follow` what the rest begins with."""

    def __init__(self, ignore_case: bool) -> None:
        self._ignore_case = ignore_case

    def sequence(self, nodes: Sequence[Node], behind: int, follow: Letters) -> int:
        for node in reversed(nodes):
            behind = self._one(node, behind, follow)
            first = firsts([node], self._ignore_case)
            follow = first if width([node])[0] > 0 else first | follow
        return behind

    def _one(self, node: Node, behind: int, follow: Letters) -> int:
        kind, value = node
        if kind is c.AT:
            return behind
        if kind is c.SUBPATTERN:
            return self.sequence(list(value[3]), behind, follow)
        if kind is c.BRANCH:
            return sum(self.sequence(list(branch), behind, follow) for branch in value[1])
        if kind in (c.MAX_REPEAT, c.MIN_REPEAT):
            return self._repeat(value, behind, follow)
        return 1 + behind

    def _repeat(self, value: Any, behind: int, follow: Letters) -> int:
        low, high = int(value[0]), int(value[1])
        parts = list(value[2])
        if high == 1:
            return self.sequence(parts, behind, follow) + (behind if low == 0 else 0)
        walked, ways = high * width(parts)[1], high - low
        if firsts(parts, self._ignore_case) & follow:
            return walked + (ways + 1) * behind
        return walked + ways + behind  # on the way back the next character never fits


def width(nodes: Sequence[Node]) -> tuple[int, int]:
    """Return how many characters a match of the sequence has, at least and at most."""
    low = high = 0
    for kind, value in nodes:
        if kind is c.AT:
            continue
        one = (1, 1)
        if kind is c.BRANCH:
            widths = [width(list(branch)) for branch in value[1]]
            one = (min(w[0] for w in widths), max(w[1] for w in widths))
        elif kind is c.SUBPATTERN:
            one = width(list(value[3]))
        elif kind in (c.MAX_REPEAT, c.MIN_REPEAT):
            inner = width(list(value[2]))
            one = (value[0] * inner[0], value[1] * inner[1])
        low, high = low + one[0], high + one[1]
    return low, high


def firsts(nodes: Sequence[Node], ignore_case: bool) -> Letters:
    """Return what a match of the sequence may begin with, on the safe side."""
    found: Letters = frozenset()
    for kind, value in nodes:
        if kind is c.AT:
            continue
        if kind is c.BRANCH:
            found = found.union(*(firsts(list(branch), ignore_case) for branch in value[1]))
        elif kind is c.SUBPATTERN:
            found |= firsts(list(value[3]), ignore_case)
        elif kind in (c.MAX_REPEAT, c.MIN_REPEAT):
            found |= firsts(list(value[2]), ignore_case)
        else:
            found |= _letters((kind, value), ignore_case)
        if width([(kind, value)])[0] > 0:
            return found
    return found


def _letters(node: Node, ignore_case: bool) -> Letters:
    """Return which ASCII characters a single one may be, and whether any other."""
    kind, value = node
    if kind is c.LITERAL:
        found = frozenset({value if value < 128 else OTHER})
    elif kind is c.NOT_LITERAL:
        found = EVERY - {value}
    elif kind is c.IN:
        found = _letters_of_class(value)
    else:
        found = EVERY
    if not ignore_case:
        return found
    known = [chr(at) for at in found if at != OTHER]
    found |= {ord(letter.swapcase()) for letter in known}
    # A few other characters fold into ASCII letters.
    return found | {OTHER} if any(letter.isalpha() for letter in known) else found


def _letters_of_class(members: Sequence[Node]) -> Letters:
    found: set[int] = set()
    for kind, value in members:
        if kind is c.LITERAL:
            found.add(value if value < 128 else OTHER)
        elif kind is c.RANGE:
            found.update(range(value[0], min(value[1], 127) + 1))
            if value[1] > 127:
                found.add(OTHER)
        elif kind is c.CATEGORY:
            one = re.compile(CATEGORIES[value])
            found.update(at for at in range(128) if one.match(chr(at)))
            found.add(OTHER)
    if members[0][0] is c.NEGATE:
        return EVERY - {at for at in found if at != OTHER}
    return frozenset(found)
