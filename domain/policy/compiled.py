"""A policy ready to be gone by: what is checked once, and what is asked of every call."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, NamedTuple

from agentos.domain.policy.conditions import Test, test_of
from agentos.domain.policy.document import Effect, PolicyDocument, Rule
from agentos.domain.policy.errors import PolicyProblemError
from agentos.domain.policy.facts import Direction, Facts
from agentos.domain.policy.kinds import GROUPS, KINDS, NEED_A_MODEL, RECOGNISERS, expand
from agentos.domain.policy.names import NameFinder, is_fixed, name_recognisers
from agentos.domain.policy.patterns import MAX_STEPS_OF_ALL, compile_pattern
from agentos.domain.policy.recogniser import Match, Recogniser
from agentos.domain.policy.search import Search
from agentos.domain.policy.stream import StreamGuard
from agentos.domain.policy.verdict import Decision, Redaction, Verdict, redactions_of

REFUSALS: Final[tuple[Effect, ...]] = ("block", "require_approval")
REASON: Final[Mapping[Effect, str]] = {
    "block": "block",
    "require_approval": "approval_required",
    "redact": "redact",
    "allow": "allow",
}
PLANS: Final = 256


@dataclass(frozen=True, slots=True)
class CompiledRule:
    """A rule, its test of the facts, and the kinds of which one must be found (none: no need)."""

    name: str
    effect: Effect
    test: Test
    kinds: frozenset[str] | None
    directions: frozenset[Direction] | None = None


class Plan:
    """The rules that are in question for one call, and what has to be looked for."""

    def __init__(self, label: str, rules: Sequence[CompiledRule], search: Search) -> None:
        self._label = label
        self._rules = tuple(rules)
        self.search = search
        formal = [r for r in search.recognisers if not r.needs_whole]
        self.formal = Search(formal) if search.needs_whole else search
        self.redacted = frozenset(
            kind for rule in rules if rule.effect == "redact" for kind in rule.kinds or ()
        )
        self._refused = frozenset(
            kind for rule in rules if rule.effect in REFUSALS for kind in rule.kinds or ()
        )
        self._decided: dict[frozenset[str], Decided] = {}
        self.is_refused = any(rule.effect in REFUSALS and rule.kinds is None for rule in rules)

    def refuses(self, kind: str) -> bool:
        """Whether finding this kind keeps the content from passing."""
        return kind in self._refused

    def verdict(self, findings: Mapping[str, int], redactions: Sequence[Redaction]) -> Verdict:
        """Return the decision that follows from what was found."""
        return self._of(findings, redactions) if findings else self._clean

    @cached_property
    def _clean(self) -> Verdict:
        """What follows where nothing was found, as in most texts."""
        return self._of({}, ())

    def _of(self, findings: Mapping[str, int], redactions: Sequence[Redaction]) -> Verdict:
        kinds = frozenset(findings)
        decided = self._decided.get(kinds)
        if decided is None:
            if len(self._decided) >= PLANS:
                self._decided.clear()
            decided = self._decided[kinds] = self._decide(kinds)
        decision, approval, reasons, names = decided
        shown = tuple(redactions) if decision == "redacted" else ()
        return Verdict(decision, approval, reasons, shown, findings, names)

    def _decide(self, kinds: frozenset[str]) -> "Decided":
        """Return what follows from kinds that were found, however often."""
        held = [rule for rule in self._rules if rule.kinds is None or rule.kinds & kinds]
        names = tuple(rule.name for rule in held)
        for effect in REASON:
            rule = next((rule for rule in held if rule.effect == effect), None)
            if rule is None:
                continue
            reasons = (self._label, f"{REASON[effect]}:{rule.name}")
            if effect in REFUSALS:
                return Decided("blocked", effect == "require_approval", reasons, names)
            return Decided("redacted" if effect == "redact" else "allowed", False, reasons, names)
        return Decided("allowed", False, (self._label,), ())


class Decided(NamedTuple):
    """A verdict without what is one content's own."""

    decision: Decision
    needs_approval: bool
    reasons: tuple[str, ...]
    names: tuple[str, ...]


class CompiledPolicy:
    """One version of a policy. Made once, asked often; it never waits and keeps no content.

    With a `finder` (none where no rule is about names) each text is searched by a model:
    `await finder.prepare(texts)` before a `check` keeps it off the caller's thread.
    """

    def __init__(
        self,
        policy_id: str,
        version: str,
        rules: Sequence[CompiledRule],
        search: Search,
        finder: NameFinder | None = None,
    ) -> None:
        self.finder = finder
        self.policy_id = policy_id
        self.version = version
        self.label = f"{policy_id}@{version}"
        self._rules = tuple(rules)
        self._search = search
        self._plans: dict[tuple[int, ...], Plan] = {}

    def check(
        self, fields: Sequence[tuple[str, str]], facts: Facts, *, approved: bool = False
    ) -> Verdict:
        """Return the verdict on a content: `(field, text)` for each of its texts.

        Where a name would have to be hidden that is fixed, nothing passes. `approved`: as if a
        person had said yes, so no rule that asks for that holds.
        """
        plan = self._plan(facts, approved=approved)
        if plan.is_refused:
            return plan.verdict({}, ())
        findings: dict[str, int] = {}
        redactions: list[Redaction] = []
        for field, text in fields:
            search = plan.formal if is_fixed(field) else plan.search
            if matches := search.find(text):
                for match in matches:
                    findings[match.kind] = findings.get(match.kind, 0) + 1
                hidden: list[Match] = [m for m in matches if m.kind in plan.redacted]
                redactions += redactions_of(hidden, field, plan.search.rank)
        verdict = plan.verdict(findings, redactions)
        for redaction in verdict.redactions:
            if is_fixed(redaction.field):
                return verdict.refused(f"cannot_redact:{redaction.field}")
        return verdict

    def concerns(self, direction: Direction) -> bool:
        """Whether any rule could hold in this direction; if none could, there is nothing to ask."""
        return any(rule.directions is None or direction in rule.directions for rule in self._rules)

    def findings(self, text: str) -> Counter[str]:
        """Return how often each kind that any rule looks for is in a text."""
        return Counter(match.kind for match in self._wanted.find(text))

    @cached_property
    def _wanted(self) -> Search:
        kinds = {kind for rule in self._rules for kind in rule.kinds or ()}
        return Search([r for r in self._search.recognisers if r.kind in kinds])

    def judge(self, findings: Mapping[str, int], facts: Facts) -> Verdict:
        """Return the verdict on a content of which only what was found in it is known."""
        plan = self._plan(facts)
        return plan.verdict({} if plan.is_refused else findings, ())

    def stream(self, facts: Facts, field: str = "output.content") -> StreamGuard:
        """Return the guard of one streamed text: the same verdict, piece by piece."""
        return StreamGuard(self._plan(facts), field)

    def _plan(self, facts: Facts, *, approved: bool = False) -> Plan:
        held = tuple([at for at, rule in enumerate(self._rules) if rule.test(facts)])
        if approved:
            held = tuple(at for at in held if self._rules[at].effect != "require_approval")
        plan = self._plans.get(held)
        if plan is None:
            rules = [self._rules[at] for at in held]
            wanted = {kind for rule in rules for kind in rule.kinds or ()}
            search = Search([r for r in self._search.recognisers if r.kind in wanted])
            plan = Plan(self.label, rules, search)
            if len(self._plans) >= PLANS:
                self._plans.clear()
            self._plans[held] = plan
        return plan


def compile_policy(
    policy_id: str, version: str, document: PolicyDocument, finder: NameFinder | None = None
) -> CompiledPolicy:
    """Return the policy ready to be gone by; `PolicyProblemError` says what of it cannot be.

    Without a `finder` there is nothing to find persons and places with.
    """
    patterns = _patterns(document)
    rules = [
        CompiledRule(
            rule.name,
            rule.effect,
            test_of(rule),
            _kinds(rule, finder is not None),
            _directions(rule),
        )
        for rule in document.rules
    ]
    if finder is None or not any(rule.kinds and rule.kinds & {*NEED_A_MODEL} for rule in rules):
        search = Search((*patterns, *RECOGNISERS))
        return CompiledPolicy(policy_id, version, rules, search)
    search = Search((*patterns, *RECOGNISERS, *name_recognisers(finder)))
    return CompiledPolicy(policy_id, version, rules, search, finder)


def _directions(rule: Rule) -> frozenset[Direction] | None:
    named = rule.when.direction
    return None if named is None else frozenset(named)


def _kinds(rule: Rule, has_model: bool) -> frozenset[str] | None:
    if not rule.when.is_about_content:
        return None
    try:
        named = expand(rule.when.pii_types or (), has_model=has_model)
    except PolicyProblemError as error:
        raise PolicyProblemError(f"rule {rule.name!r}: {error.problem}") from error
    patterns = (pattern.name for pattern in rule.when.content_patterns or ())
    return frozenset((*named, *patterns))


def _patterns(document: PolicyDocument) -> list[Recogniser]:
    taken = {*KINDS, *GROUPS, *NEED_A_MODEL}
    found: list[Recogniser] = []
    total = 0
    for rule in document.rules:
        for pattern in rule.when.content_patterns or ():
            if pattern.name in taken:
                raise PolicyProblemError(
                    f"rule {rule.name!r}: the content pattern's name {pattern.name!r} is taken; "
                    "give it one of its own"
                )
            taken.add(pattern.name)
            compiled, steps = compile_pattern(pattern)
            total += steps
            found.append(Recogniser(pattern.name, compiled))
    if total > MAX_STEPS_OF_ALL:
        raise PolicyProblemError(
            f"all content patterns together could take {total} steps at each character; "
            f"at most {MAX_STEPS_OF_ALL} are taken"
        )
    return found
