"""What a proposal would have done to recorded calls. Nothing is changed by asking."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from agentos.domain.admission.budgets import MICRO_USD, REQUESTS, TOKENS
from agentos.domain.admission.windows import window_start
from agentos.domain.errors import AgentOSError
from agentos.domain.models.plan import Target, Who
from agentos.domain.policy.compiled import CompiledPolicy
from agentos.domain.policy.facts import Direction, Facts
from agentos.domain.policy.verdict import Verdict
from agentos.domain.replay.proposal import Proposal
from agentos.domain.replay.traffic import Call, Source, Texts

KEPT: Final = 1000
REMEMBERED: Final = 4096
DIRECTIONS: Final[tuple[Direction, ...]] = ("input", "tool_output", "output")
NOT_KNOWN: Final = "not_known"
SOURCES: Final[tuple[Source, ...]] = ("events", "bodies", "findings", "nothing")
NOTHING: Final[tuple[Texts, Mapping[str, int]]] = ((), {})
RANK: Final = {"allowed": 0, "redacted": 1, "blocked": 2}


@dataclass(frozen=True, slots=True)
class Judged:
    """What would have become of one call. Costs are in millionths of a dollar."""

    call: Call
    would: str
    reasons: tuple[str, ...]
    target: str
    cost_delta_micro: int
    is_changed: bool
    """Whether the call would have gone otherwise: decision, model or cost."""

    def to_json(self) -> dict[str, Any]:
        """Return it as one of the changes."""
        call = self.call
        return {
            "tenant_id": call.tenant_id,
            "time_ms": call.time_ms,
            "run_id": call.run_id,
            "request_id": call.request_id,
            "was": _was(call),
            "would": self.would,
            "reasons": list(self.reasons),
            "model_was": f"{call.backend}/{call.model}",
            "model_would": self.target,
            "cost_delta_usd": self.cost_delta_micro / 1_000_000,
        }


@dataclass(slots=True)
class Tally:
    """Counts of one tenant, or of all; `changes` holds the first thousand.

    `not_known` are direct calls in which nobody had looked for anything, and calls of runs that
    were erased. `sources` says what the calls were judged by.
    """

    decisions: int = 0
    changed: int = 0
    would_block: int = 0
    would_redact: int = 0
    cost_delta_micro: int = 0
    not_known: int = 0
    sources: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SOURCES, 0))
    changes: list[dict[str, Any]] = field(default_factory=list)

    def add(self, judged: Judged) -> None:
        """Count one call."""
        self.decisions += 1
        self.would_block += judged.would == "blocked"
        self.would_redact += judged.would == "redacted"
        self.cost_delta_micro += judged.cost_delta_micro
        self.not_known += judged.reasons == (NOT_KNOWN,)
        self.sources[judged.call.source] += 1
        if judged.is_changed:
            self.changed += 1
            if len(self.changes) < KEPT:
                self.changes.append(judged.to_json())

    def to_json(self) -> dict[str, Any]:
        """Return it as `--json` prints it."""
        return {
            "decisions": self.decisions,
            "changed": self.changed,
            "would_block": self.would_block,
            "would_redact": self.would_redact,
            "cost_delta_usd": self.cost_delta_micro / 1_000_000,
            "not_known": self.not_known,
            "judged_from": dict(self.sources),
            "changes": self.changes,
        }


class WhatIf:
    """Judges calls in the order of the log: budgets fill up as they would have."""

    def __init__(self, proposal: Proposal) -> None:
        self._proposal = proposal
        self._used: dict[tuple[str, str, str], tuple[int, int]] = {}
        self._looked: dict[str, Mapping[str, int]] = {}
        self._counted: dict[tuple[str, str, str], tuple[Texts, Mapping[str, int]]] = {}

    def judge(self, call: Call) -> Judged:
        """Return what would have become of a call."""
        target, refused = self._routed(call)
        cost = self._cost(call, target)
        would, reasons = self._decided(call, target)
        if refused is not None:
            would, reasons = "blocked", (f"route:{refused}",)
        if would != "blocked" and (full := self._spend(call, cost)) is not None:
            would, reasons = "blocked", (f"quota:{full}",)
        after = 0 if would == "blocked" else cost
        was = f"{call.backend}/{call.model}"
        name = was if target is None else target.model_id
        delta = after - call.cost_micro
        changed = would != _was(call) or name != was or delta != 0
        return Judged(call, would, reasons, name, delta, changed)

    def _routed(self, call: Call) -> tuple[Target | None, str | None]:
        """Return the model that the call would have gone to first, or why to none."""
        table = self._proposal.table
        if table is None:
            return None, None
        who = Who(call.tenant_id, call.principal_id or "", call.agent_id, call.run_id)
        try:
            operation = "embed" if call.operation == "embed" else "chat"
            plan = table.plan(call.model_ref, operation, who, _everything)  # type: ignore[arg-type]
        except AgentOSError as exc:
            return None, exc.code
        return plan.targets[0], None

    def _cost(self, call: Call, target: Target | None) -> int:
        """Return what the same tokens would have cost."""
        if target is None:
            return call.cost_micro
        return target.micro_usd(call.input_tokens, call.output_tokens)

    def _decided(self, call: Call, target: Target | None) -> tuple[str, tuple[str, ...]]:
        policy = self._proposal.policy
        if policy is None or call.status == "refused":
            return _was(call), ()
        if call.source == "nothing":
            return _was(call), (NOT_KNOWN,)
        worst, rank = None, -1
        for verdict in self._verdicts(policy, call, target):
            if RANK[verdict.decision] > rank:  # the first of the worst
                worst, rank = verdict, RANK[verdict.decision]
        return (worst.decision, worst.reasons) if worst else ("allowed", ())

    def _verdicts(
        self, policy: CompiledPolicy, call: Call, target: Target | None
    ) -> Iterator[Verdict]:
        known = call.findings if call.source == "findings" else None
        for direction in DIRECTIONS:
            if known is not None:
                found = known.get(direction, {})
            else:
                found = self._said(policy, call, direction)
            if found or call.texts.get(direction) or direction != "tool_output":
                verdict = policy.judge(found, _facts(call, direction, target))
                yield verdict
                if verdict.is_blocked:
                    return
        for tool, texts in call.tools:
            facts = _facts(call, "tool_input", target, tool)
            yield policy.judge(self._found(policy, texts, {}), facts)
        if known is not None and (found := known.get("tool_input", {})):
            yield policy.judge(found, _facts(call, "tool_input", target))

    def _said(self, policy: CompiledPolicy, call: Call, direction: str) -> Mapping[str, int]:
        """Return what is in the texts of a run's call.

        Each of its calls says what the ones before said, and more: only that is counted.
        """
        texts = call.texts.get(direction, ())
        place = (call.tenant_id, call.run_id or "", direction)
        before, known = self._counted.get(place, NOTHING)
        if texts[: len(before)] != before:
            before, known = NOTHING
        if len(texts) > len(before):
            known = self._found(policy, texts[len(before) :], known)
            if len(self._counted) >= REMEMBERED:
                self._counted.clear()
            self._counted[place] = (texts, known)
        return known

    def _found(
        self, policy: CompiledPolicy, texts: Texts, before: Mapping[str, int]
    ) -> Mapping[str, int]:
        """Return what is in some texts, and what was found before."""
        total = dict(before)
        for text in texts:
            found = self._looked.get(text)
            if found is None:
                if len(self._looked) >= REMEMBERED:
                    self._looked.clear()
                found = self._looked[text] = policy.findings(text)
            for kind, count in found.items():
                total[kind] = total.get(kind, 0) + count
        return total

    def _spend(self, call: Call, cost: int) -> str | None:
        """Count a call in the windows that it fell into; the window that had no room for it."""
        if call.status == "refused":
            return None
        amounts = {
            REQUESTS: 1,
            TOKENS: call.input_tokens + call.output_tokens,
            MICRO_USD: cost,
        }
        found: dict[tuple[str, str, str], tuple[int, int]] = {}
        for budget in self._proposal.budgets:
            key = (call.tenant_id, budget.span, budget.unit)
            start = window_start(budget.span, call.time_ms)
            before = self._used.get(key, (start, 0))
            used = (before[1] if before[0] == start else 0) + amounts[budget.unit]
            if used > budget.limit:
                return f"{budget.unit} a {budget.span}"
            found[key] = (start, used)
        self._used.update(found)
        return None


def _was(call: Call) -> str:
    return "blocked" if call.status in ("refused", "blocked") else call.decision


def _everything(asked: str, target: Target) -> bool:
    """What a tenant may use stays as it is: it is not what is asked here."""
    return True


def _facts(
    call: Call, direction: Direction, target: Target | None, tool: str | None = None
) -> Facts:
    tier = call.model_ref.removeprefix("tier:") if call.model_ref.startswith("tier:") else None
    return Facts(
        direction=direction,
        model=f"{call.backend}/{call.model}" if target is None else target.model_id,
        tier=tier if target is None else target.tier or tier,
        backend=call.backend if target is None else target.backend,
        tool=tool,
        data_classification=call.context.get("data_classification"),
        region=call.context.get("region"),
        purpose=call.context.get("purpose"),
        now_ms=call.time_ms,
        agent_id=call.agent_id,
        principal_id=call.principal_id,
        labels=call.labels,
    )
