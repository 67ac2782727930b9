"""What a policy made of a content: its decision, why, and what of it is replaced."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field, replace
from typing import Any, Literal

from agentos.domain.policy.recogniser import Match
from agentos.domain.values import value

Decision = Literal["allowed", "blocked", "redacted"]


@value
class Redaction:
    """A part of a field's text, in code points of the original, and what stands in its place."""

    type: str
    start: int
    end: int
    replacement: str
    field: str

    def view(self) -> dict[str, Any]:
        """Return the contract's redaction object."""
        return {
            "type": self.type,
            "start": self.start,
            "end": self.end,
            "replacement": self.replacement,
            "field": self.field,
        }


@value
class Verdict:
    """The decision on one content.

    `reasons` name the policy (`pol_default@1`) and the rule that decided (`redact:<rule>`,
    `block:<rule>`, `approval_required:<rule>`, `allow:<rule>`). `rules` are all rules that
    held, in their order; `findings` counts what was found by kind, and holds no content. A
    blocked content has no redactions: nothing of it is shown.
    """

    decision: Decision
    needs_approval: bool
    reasons: tuple[str, ...]
    redactions: tuple[Redaction, ...] = ()
    findings: Mapping[str, int] = field(default_factory=dict)
    rules: tuple[str, ...] = ()

    @property
    def is_blocked(self) -> bool:
        """Whether the content may not pass at all."""
        return self.decision == "blocked"

    def apply(self, field: str, text: str) -> str:
        """Return the text of a field as it may pass."""
        pieces, at = [], 0
        for redaction in self.redactions:
            if redaction.field == field:
                pieces += [text[at : redaction.start], redaction.replacement]
                at = redaction.end
        return "".join([*pieces, text[at:]]) if at else text

    def refused(self, reason: str) -> "Verdict":
        """Return the verdict on a content of which something cannot be replaced."""
        return replace(self, decision="blocked", reasons=(*self.reasons, reason), redactions=())

    def outcome(self) -> dict[str, Any]:
        """Return the contract's `policy_outcome`."""
        return {
            "decision": self.decision,
            "reasons": list(self.reasons),
            "redactions": [redaction.view() for redaction in self.redactions],
        }


def redactions_of(
    matches: Iterable[Match], field: str, rank: Mapping[str, int], offset: int = 0
) -> Sequence[Redaction]:
    """Return one redaction for each stretch of matches that overlap.

    It has the kind of the longest of them, of the first in rank where some are equally long.
    """
    found: list[Redaction] = []
    ordered = sorted(matches, key=lambda match: (match.start, -match.end, rank[match.kind]))
    stretch: list[Match] = []
    end = -1
    for match in ordered:
        if match.start >= end and stretch:
            found.append(_redaction(stretch, end, field, rank, offset))
            stretch = []
        stretch.append(match)
        end = max(end, match.end) if len(stretch) > 1 else match.end
    if stretch:
        found.append(_redaction(stretch, end, field, rank, offset))
    return found


def _redaction(
    stretch: Sequence[Match], end: int, field: str, rank: Mapping[str, int], offset: int
) -> Redaction:
    best = min(stretch, key=lambda match: (match.start - match.end, rank[match.kind]))
    start = offset + stretch[0].start
    return Redaction(best.kind, start, offset + end, f"[{best.kind.upper()}]", field)
