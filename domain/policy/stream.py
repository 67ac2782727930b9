"""A streamed text under a policy: let out as early as what it may still become allows."""

from collections import Counter
from collections.abc import Sequence
from typing import Final, Protocol

from agentos.domain.policy.recogniser import Match
from agentos.domain.policy.search import Search
from agentos.domain.policy.verdict import Redaction, Verdict, redactions_of

CONTEXT: Final = 4  # what a recogniser may look at before its match
LONG: Final = 512
BLOCK: Final = "-----BEGIN"


class Plan(Protocol):
    """What is looked for in one call, and what follows from what is found."""

    @property
    def search(self) -> Search:
        """What is looked for."""
        ...

    @property
    def redacted(self) -> frozenset[str]:
        """The kinds that are replaced."""
        ...

    @property
    def is_refused(self) -> bool:
        """Whether nothing may pass, whatever it is."""
        ...

    def refuses(self, kind: str) -> bool:
        """Whether finding this kind keeps the content from passing."""
        ...

    def verdict(self, findings: dict[str, int], redactions: Sequence[Redaction]) -> Verdict:
        """Return the decision that follows from what was found."""
        ...


class StreamGuard:
    """One text that comes in pieces.

    What comes out, put together, and the verdict behind `finish()` are those of the whole
    text, however it was cut. Held back is only the end of the text that may still become part
    of a match: an unfinished word, a group of digits, a block of a key. Where a rule blocks,
    `is_blocked` turns true at the piece that decides it; nothing comes out from there on, and
    what came out before is a part of the text that ends before the match. Of several rules
    that would block, the one that is met first is named.

    It keeps what it holds back, which no recogniser lets grow beyond its longest match
    (17 KiB for a key's block, 1,000 characters for a content pattern), and its redactions.
    """

    def __init__(self, plan: Plan, field: str) -> None:
        self._plan = plan
        self._field = field
        self._text = ""  # some context that is out already, then what is held
        self._held = 0  # where in it the held part begins
        self._offset = 0  # how much of the whole text is before it
        self._look_at = 0  # how long it must be to be looked at again
        self._findings: Counter[str] = Counter()
        self._redactions: list[Redaction] = []
        self.is_blocked = plan.is_refused

    @property
    def verdict(self) -> Verdict:
        """The decision on what was seen so far; on the whole text behind `finish()`."""
        return self._plan.verdict(dict(self._findings), self._redactions)

    @property
    def held(self) -> str:
        """What came and is not let out yet."""
        return self._text[self._held :]

    def feed(self, text: str) -> str:
        """Take the next piece; return what may go out now, which may be nothing."""
        if self.is_blocked:
            return ""
        self._text += text
        if len(self._text) < self._look_at and not self._may_end(text):
            return ""
        return self._let_out(self._plan.search.open_from(self._text, self._held))

    def finish(self) -> str:
        """Say that the text ends here; return the rest of it."""
        return "" if self.is_blocked else self._let_out(len(self._text))

    def _let_out(self, sure: int) -> str:
        """Let out what no match crosses, of all that begins before `sure`."""
        if sure <= self._held and self._plan.search.needs_whole:
            return ""  # nothing is sure before the end: not looked at before, either
        matches = [m for m in self._plan.search.find(self._text, self._held) if m.begin < sure]
        cut = _uncrossed(matches, sure)
        if any(self._plan.refuses(match.kind) for match in matches):
            self._findings.update(match.kind for match in matches)
            self.is_blocked = True
            self._text = ""
            return ""
        done = [match for match in matches if match.begin < cut]
        self._findings.update(match.kind for match in done)
        out = self._replaced(done, cut)
        self._keep_from(cut)
        return out

    def _replaced(self, done: Sequence[Match], cut: int) -> str:
        hidden = [match for match in done if match.kind in self._plan.redacted]
        if not hidden:
            return self._text[self._held : cut]
        found = redactions_of(hidden, self._field, self._plan.search.rank, self._offset)
        self._redactions += found
        pieces, at = [], self._held
        for redaction in found:
            pieces += [self._text[at : redaction.start - self._offset], redaction.replacement]
            at = redaction.end - self._offset
        return "".join([*pieces, self._text[at:cut]])

    def _keep_from(self, cut: int) -> None:
        keep = max(0, cut - CONTEXT)
        self._text = self._text[keep:]
        self._offset += keep
        self._held = cut - keep
        held = len(self._text) - self._held
        self._look_at = len(self._text) + held // 8 if held > LONG else 0

    def _may_end(self, piece: str) -> bool:
        """Whether a long block may end in this piece; else it is not read anew for every one."""
        if BLOCK in self._text:
            return "-----" in self._text[-len(piece) - 4 :]
        return any(letter.isspace() for letter in piece)


def _uncrossed(matches: Sequence[Match], sure: int) -> int:
    """Return the last place up to `sure` that lies in no match."""
    cut = sure
    for match in sorted(matches, key=lambda match: match.end, reverse=True):
        if match.begin < cut < match.end:
            cut = match.begin
    return cut
