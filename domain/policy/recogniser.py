"""One kind of thing that is found in texts: where it may be, and whether it really is one."""

import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from agentos.domain.values import value

Span = tuple[int, int]
Accept = Callable[[re.Match[str]], Span | None]
LEAD: Final = 4  # what may stand before the first digits of a number
TRAIL: Final = 24  # and, with what is looked at behind it, after the last ones
NUMBERS: Final = re.compile(r"[0-9](?:[ .()/+-]{0,2}[0-9]){5,}")
# An id stands alone: behind its first character these look at what is before that character.
ALONE: Final = r"(?<!\w.)(?<![0-9][.,-].)"
END: Final = r"(?!\w)"


@value
class Match:
    """Something found: its kind, what of it is redacted, and where the whole match began."""

    kind: str
    start: int
    end: int
    begin: int


def whole(found: re.Match[str]) -> Span:
    """Accept a match as it is."""
    return found.span()


@dataclass(frozen=True, slots=True)
class Recogniser:
    """Finds one kind.

    `pattern` has bounded repeats only, and lookahead of one character at its end only
    (`open_tail`). `accept` returns the part of a match that is redacted, which ends where the
    search goes on; `None` lets the search go on one character behind the match's beginning. It
    may look at the match alone, so that what is found never depends on what comes later.
    The rest only saves time: what every match has. At least one of the characters `marks`, so
    many ASCII `digits`, so many ASCII `capitals` in a row. One of the texts `needs`: as it is,
    up to `reach` characters behind the match's beginning, or anywhere in lower case, where
    `any_case`. `is_number` says that it has six digits near each other, and little before them.
    One that `needs_whole` has no such pattern: what it finds may change with what comes later.
    """

    kind: str
    pattern: re.Pattern[str]
    accept: Accept = whole
    needs: tuple[str, ...] = ()
    reach: int = 0
    any_case: bool = False
    is_number: bool = False
    marks: str = ""
    digits: int = 0
    capitals: int = 0
    needs_whole: bool = False

    def find(self, text: str, start: int, end: int = sys.maxsize) -> Iterator[Match]:
        """Return what is found from `start` to `end`, in order, never overlapping."""
        search = self.pattern.search
        at = start
        while (found := search(text, at, end)) is not None:
            span = self.accept(found)
            if span is None:
                at = found.start() + 1
            else:
                yield Match(self.kind, span[0], span[1], found.start())
                at = span[1]
