"""Cases of a policy: texts with their circumstances, and what is expected of them."""

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import from_json

from agentos.domain.policy.compiled import CompiledPolicy, compile_policy
from agentos.domain.policy.document import PolicyDocument
from agentos.domain.policy.errors import PolicyProblemError
from agentos.domain.policy.facts import Direction, Facts
from agentos.domain.policy.verdict import Decision, Verdict
from agentos.domain.times import to_ms
from agentos.infra.names import installed_names

FIELD: Final = "text"


class CaseError(Exception):
    """A file that cannot be used; the text says which place of it."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Expected(_Part):
    """What a case must come to; what is left out may be anything. `text` is the text after."""

    decision: Decision | None = None
    rule: str | None = None
    text: str | None = None


class Case(_Part):
    """One text and all that a condition may ask for; `at` is a time in RFC 3339, now if not."""

    text: str
    name: str | None = None
    direction: Direction = "input"
    model: str | None = None
    tier: str | None = None
    backend: str | None = None
    tool: str | None = None
    data_classification: str | None = "internal"
    region: str | None = "local"
    purpose: str | None = "agent_run"
    agent: str | None = None
    principal: str | None = None
    at: str | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    expect: Expected | None = None

    def facts(self) -> Facts:
        """Return them as a policy takes them."""
        return Facts(
            direction=self.direction,
            model=self.model,
            tier=self.tier,
            backend=self.backend,
            tool=self.tool,
            data_classification=self.data_classification,
            region=self.region,
            purpose=self.purpose,
            now_ms=time.time_ns() // 1_000_000 if self.at is None else to_ms(self.at),
            agent_id=self.agent,
            principal_id=self.principal,
            labels=self.labels,
        )


def read_document(path: Path) -> PolicyDocument:
    """Return the policy in a JSON file; `CaseError` says what of it does not fit."""
    try:
        return PolicyDocument.model_validate_json(path.read_bytes())
    except OSError as exc:
        raise CaseError(f"{path}: {exc.strerror}") from exc
    except ValidationError as exc:
        raise CaseError(_told(path.name, exc)) from exc


def compiled(path: Path) -> CompiledPolicy:
    """Return the policy in a file ready to be gone by; `CaseError` says why it cannot be."""
    try:
        return compile_policy("pol_file", "draft", read_document(path), installed_names())
    except PolicyProblemError as exc:
        raise CaseError(f"{path.name}: {exc.problem}") from exc


def read_cases(given: Iterable[str]) -> list[Case]:
    """Return the cases: JSON files with one or a list, other files as a text, else the text."""
    return [case for one in given for case in _read(one)]


def _read(given: str) -> list[Case]:
    try:
        is_file = Path(given).is_file()
    except (OSError, ValueError):
        is_file = False  # too long for a path: it is a text
    if not is_file:
        return [Case(text=given)]
    try:
        text = Path(given).read_text()
    except (OSError, ValueError) as exc:
        raise CaseError(f"{given}: {exc}") from exc
    if not given.endswith(".json"):
        return [Case(text=text, name=Path(given).name)]
    try:
        found = from_json(text)
        cases = TypeAdapter(list[Case]).validate_python(
            found if isinstance(found, list) else [found]
        )
        for case in cases:
            case.facts()
        return cases
    except ValidationError as exc:
        raise CaseError(_told(given, exc)) from exc
    except ValueError as exc:
        raise CaseError(f"{given}: {exc}") from exc


def _told(name: str, exc: ValidationError) -> str:
    return "\n".join(
        f"{name}: {'.'.join(map(str, error['loc'])) or 'the whole'}: {error['msg']}"
        for error in exc.errors(include_url=False, include_input=False)
    )


def outcome(case: Case, verdict: Verdict) -> dict[str, Any]:
    """Return what a case came to, and each expectation that it fails."""
    after = None if verdict.is_blocked else verdict.apply(FIELD, case.text)
    rule = verdict.reasons[1].partition(":")[2] if len(verdict.reasons) > 1 else None
    found: dict[str, Any] = {"decision": verdict.decision, "rule": rule, "text": after}
    wanted = case.expect.model_dump(exclude_unset=True) if case.expect else {}
    failed = {
        name: {"expected": value, "found": found[name]}
        for name, value in wanted.items()
        if found[name] != value
    }
    return {
        "name": case.name or case.text[:40],
        **found,
        "reasons": list(verdict.reasons),
        "findings": dict(verdict.findings),
        "redactions": [redaction.view() for redaction in verdict.redactions],
        "failed": failed,
    }


def run(policy: CompiledPolicy, cases: Iterable[Case]) -> list[dict[str, Any]]:
    """Return what each case came to."""
    return [outcome(case, policy.check([(FIELD, case.text)], case.facts())) for case in cases]
