"""What is looked for together: some kinds, in one text after the other."""

import re
from collections.abc import Sequence
from functools import cached_property

from agentos.domain.policy.open_tail import open_tail
from agentos.domain.policy.recogniser import LEAD, NUMBERS, TRAIL, Match, Recogniser


class Search:
    """A set of recognisers. `rank` of a kind is its place: the lower goes before the higher."""

    def __init__(self, recognisers: Sequence[Recogniser]) -> None:
        self.recognisers = tuple(recognisers)
        kinds = dict.fromkeys(recogniser.kind for recogniser in recognisers)
        self.rank = {kind: at for at, kind in enumerate(kinds)}
        # Most texts hold nothing, and every text of every call comes by here: what a look at
        # the text can rule out is sorted by that look, and no regular expression runs for it.
        self._numbers = [r for r in self.recognisers if r.is_number]
        others = [r for r in self.recognisers if not r.is_number]
        self._always = [r for r in others if not r.needs]
        self._plain = [r for r in others if r.needs and not r.any_case]
        self._folded = [r for r in others if r.needs and r.any_case]

    def find(self, text: str, start: int = 0) -> list[Match]:
        """Return all that is found from `start` on; those of different kinds may overlap."""
        found: list[Match] = []
        for recogniser in self._always:
            found += recogniser.find(text, start)
        for recogniser in self._plain:
            first = len(text)
            for need in recogniser.needs:
                at = text.find(need)
                if 0 <= at < first:
                    first = at
            if first < len(text):
                found += recogniser.find(text, max(start, first - recogniser.reach))
        if self._folded:
            lower = text.lower()
            for recogniser in self._folded:
                for need in recogniser.needs:
                    if need in lower:
                        found += recogniser.find(text, start)
                        break
        if self._numbers and (spans := [number.span() for number in NUMBERS.finditer(text)]):
            first, last = max(start, spans[0][0] - LEAD), spans[-1][1] + TRAIL
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
        found = self._open.search(text, start)
        return len(text) if found is None else found.start()

    @cached_property
    def _open(self) -> re.Pattern[str]:
        tails = dict.fromkeys(open_tail(recogniser.pattern) for recogniser in self.recognisers)
        return re.compile("|".join(tails))
