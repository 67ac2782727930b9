"""Persons and places: what has no form of its own, and is found by a model from outside."""

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from agentos.domain.policy.recogniser import Match, Recogniser

KINDS: Final = ("person", "location")
NEVER: Final = re.compile(r"(?!)")
FIXED: Final = ".*"


class Name(NamedTuple):
    """A name in a text: its kind (of `KINDS`) and where it stands, in code points."""

    kind: str
    start: int
    end: int


class NameFinder(Protocol):
    """Finds names. What it finds in a text depends on that text alone."""

    def find(self, text: str) -> Sequence[Name]:
        """Return the names in a text, in order; it may take long, unless `prepare` had it."""
        ...

    async def prepare(self, texts: Iterable[str]) -> None:
        """Have the names of those texts ready for `find`, without keeping anybody up."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class NameRecogniser(Recogniser):
    """Finds one kind of name. It needs the whole text: more of it may change what is found."""

    finder: NameFinder
    needs_whole: bool = True

    def find(self, text: str, start: int, end: int = sys.maxsize) -> Iterator[Match]:
        """Return what is found from `start` to `end`, in order, never overlapping."""
        for name in self.finder.find(text):
            if name.kind == self.kind and start <= name.start and name.end <= end:
                yield Match(name.kind, name.start, name.end, name.start)


def name_recognisers(finder: NameFinder) -> list[Recogniser]:
    """Return a recogniser for each kind."""
    return [NameRecogniser(kind, NEVER, finder=finder) for kind in KINDS]


def is_fixed(field: str) -> bool:
    """Whether a field holds names of tools and properties: they cannot be replaced in part.

    What calls a tool must call it, and its arguments, by the names that it knows. Persons and
    places are not looked for in them: single words without a sentence tell a model nothing.
    """
    return field.endswith(FIXED)
