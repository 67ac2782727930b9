"""What is looked for together: some kinds, in one text after the other."""

import re
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Final, TypeVar

from agentos.domain.policy.open_tail import open_tail
from agentos.domain.policy.recogniser import LEAD, NUMBERS, TRAIL, Match, Recogniser

K = TypeVar("K")
NO_DIGIT: Final = bytes(code for code in range(256) if not 0x30 <= code <= 0x39)
CAPITALS: Final = bytes(0x41 if 0x41 <= code <= 0x5A else 0x20 for code in range(256))
DIGITS: Final = 6  # that a number has at least


class Search:
    """A set of recognisers. `rank` of a kind is its place: the lower goes before the higher."""

    def __init__(self, recognisers: Sequence[Recogniser]) -> None:
        self.recognisers = tuple(recognisers)
        kinds = dict.fromkeys(recogniser.kind for recogniser in recognisers)
        self.rank = {kind: at for at, kind in enumerate(kinds)}
        self.needs_whole = any(recogniser.needs_whole for recogniser in self.recognisers)
        # Most texts hold nothing, and every text of every call comes by here: what a look at
        # the text can rule out is sorted by that look, and no regular expression runs for it.
        self._numbers = [r for r in self.recognisers if r.is_number]
        others = [r for r in self.recognisers if not r.is_number]
        counted = [r for r in others if r.digits or r.capitals]
        self._counted = _grouped(counted, lambda r: (b"A" * r.capitals, r.digits))
        self._counted.sort(key=lambda group: len(group[0][0]))
        self._marked = _grouped([r for r in others if r not in counted], lambda r: r.marks)

    def find(self, text: str, start: int = 0) -> list[Match]:
        """Return all that is found from `start` on; those of different kinds may overlap."""
        found: list[Match] = []
        lower: list[str] = []
        for marks, recognisers in self._marked:
            if not marks or marks[0] in text or marks[-1] in text:
                for recogniser in recognisers:
                    _find_needed(recogniser, text, start, lower, found)
        raw = text.encode("utf-8", "replace")
        digits, capitals = len(raw.translate(None, NO_DIGIT)), raw.translate(CAPITALS)
        for (run, some), recognisers in self._counted:
            if run not in capitals:
                break  # nor is any of the longer ones
            if digits >= some:
                for recogniser in recognisers:
                    _find_needed(recogniser, text, start, lower, found)
        if digits >= DIGITS and self._numbers and (spans := list(NUMBERS.finditer(text))):
            first, last = max(start, spans[0].start() - LEAD), spans[-1].end() + TRAIL
            for recogniser in self._numbers:
                found += recogniser.find(text, first, last)
        return found

    def open_from(self, text: str, start: int) -> int:
        """Return where the text, as it may go on, could still hold more: its length if nowhere.

        Everything that begins before this place is found by `find` as it would be in any
        longer text.
        """
        if not self.recognisers:
            return len(text)
        if self.needs_whole:
            return start
        found = self._open.search(text, start)
        return len(text) if found is None else found.start()

    @cached_property
    def _open(self) -> re.Pattern[str]:
        tails = dict.fromkeys(open_tail(recogniser.pattern) for recogniser in self.recognisers)
        return re.compile("|".join(tails))


def _grouped(
    recognisers: Iterable[Recogniser], key: Callable[[Recogniser], K]
) -> list[tuple[K, list[Recogniser]]]:
    groups: dict[K, list[Recogniser]] = {}
    for recogniser in recognisers:
        groups.setdefault(key(recogniser), []).append(recogniser)
    return list(groups.items())


def _find_needed(
    recogniser: Recogniser, text: str, start: int, lower: list[str], found: list[Match]
) -> None:
    """Add what one recogniser finds; `lower` keeps the text in lower case once it was needed."""
    if not recogniser.needs:
        found += recogniser.find(text, start)
    elif recogniser.any_case:
        if not lower:
            lower.append(text.lower())
        for need in recogniser.needs:
            if need in lower[0]:
                found += recogniser.find(text, start)
                break
    else:
        places = [at for need in recogniser.needs if (at := text.find(need)) >= 0]
        if places:
            found += recogniser.find(text, max(start, min(places) - recogniser.reach))
