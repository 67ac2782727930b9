"""A finder of names that knows four of them, and counts what it is asked."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from agentos.domain.policy.names import Name

KNOWN = re.compile(r"\b(?:(Ann|Bo)|(Rome|Oslo))\b")


@dataclass
class FewNames:
    """`NameFinder` of Ann and Bo, who are persons, and Rome and Oslo."""

    asked: list[str] = field(default_factory=list)
    prepared: list[str] = field(default_factory=list)

    def find(self, text: str) -> Sequence[Name]:
        """Return the names in a text."""
        self.asked.append(text)
        return [
            Name("person" if found[1] else "location", *found.span())
            for found in KNOWN.finditer(text)
        ]

    async def prepare(self, texts: Iterable[str]) -> None:
        """Note that they were asked for."""
        self.prepared += texts
