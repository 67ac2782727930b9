"""A tool call in a model's answer, as policy lets the runtime make it."""

from dataclasses import replace

from agentos.domain.policy.compiled import CompiledPolicy
from agentos.domain.policy.facts import Facts
from agentos.domain.policy.verdict import Verdict
from agentos.domain.ports import RequestedToolCall
from agentos.gateways.model_policy.content import call_fields, rewritten_calls


def governed_call(
    policy: CompiledPolicy, call: RequestedToolCall, facts: Facts
) -> tuple[RequestedToolCall, Verdict]:
    """Return the call as an executor may have it, and the verdict to be recorded of it.

    A call that is not allowed does not spoil the answer: it comes with `policy`, and the runtime
    does not make it, or asks a person first. Of a blocked call the arguments are taken out. What
    an approval is asked for is redacted as it would be without: the person and the tool see the
    same.
    """
    fields = call_fields([call])
    verdict = policy.check(fields, facts)
    if verdict.needs_approval:
        seen = policy.check(fields, facts, approved=True)
        if not seen.is_blocked:
            said = {"decision": "approval_required", "reasons": list(verdict.reasons)}
            asked = replace(_redacted(call, seen), policy=said)
            return asked, replace(seen, reasons=verdict.reasons)
        verdict = seen  # nobody can approve what cannot be hidden
    if verdict.is_blocked:
        said = {"decision": "blocked", "reasons": list(verdict.reasons)}
        return replace(call, arguments={}, policy=said), replace(verdict, decision="redacted")
    return _redacted(call, verdict), verdict


def _redacted(call: RequestedToolCall, verdict: Verdict) -> RequestedToolCall:
    if not verdict.redactions:
        return call
    (changed,) = rewritten_calls([call], verdict.apply)
    return changed
