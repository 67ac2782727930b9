"""What is looked for together: some kinds, in one text after the other."""

import re
from collections.abc import Sequence
from functools import cached_property

from agentos.domain.policy.open_tail import open_tail
from agentos.domain.policy.recogniser import Glance, Match, Recogniser


class Search:
    """A set of recognisers. `rank` of a kind is its place: the lower goes before the higher."""

    def __init__(self, recognisers: Sequence[Recogniser]) -> None:
        self.recognisers = tuple(recognisers)
        kinds = dict.fromkeys(recogniser.kind for recogniser in recognisers)
        self.rank = {kind: at for at, kind in enumerate(kinds)}

    def find(self, text: str, start: int = 0) -> list[Match]:
        """Return all that is found from `start` on; those of different kinds may overlap."""
        glance = Glance(text)
        return [
            match
            for recogniser in self.recognisers
            if glance.may_hold(recogniser)
            for match in recogniser.find(text, start)
        ]

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
