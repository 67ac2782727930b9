"""What is written down of a call: ids, counts and decisions, never a content.

These are the fields of `UsageRecorded`, as JSON. The handler that writes them makes the event of
them and so checks them; here, on the way of every call, nothing is made twice.
"""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from agentos.domain.errors import AgentOSError
from agentos.domain.policy.verdict import Decision, Verdict
from agentos.domain.ports import Usage
from agentos.domain.tenant.tenant import Tenant, tenant_ref
from agentos.domain.usage.usage import Status

if TYPE_CHECKING:
    from agentos.gateways.model_policy.governed import Governed

__all__ = ["Fields", "Status", "usage_fields"]

Fields = dict[str, Any]
NOT_KEPT: Final = "not kept"


def usage_fields(
    call: "Governed[Any]", status: Status, usage: Usage, cost: int, error: BaseException | None
) -> Fields:
    """Return the fields of a call's `UsageRecorded`."""
    target, caller = call.target, call.caller
    return {
        "request_id": call.request.request_id,
        "operation": call.OPERATION,
        "model_ref": call.request.model_ref,
        "backend": target.backend if target else "",
        "model": target.model if target else "",
        "node": call.gates.node,
        "status": status,
        "usage": {
            "input_tokens": usage.input_tokens,
            "output_tokens": usage.output_tokens,
            "total_tokens": usage.total_tokens,
        },
        "cost_usd": cost / 1_000_000,
        "latency_ms": call.latency_ms(),
        "streamed": call.is_streamed,
        "agent_id": caller.agent_id,
        "run_id": caller.run_id,
        "policy": _policy(call),
        "price": _price(call),
        "route": _route(call),
        "budget": _budget(call),
        "error": _error(call, error),
        "ended_ms": call.gates.clock.now_ms(),
        "parent_span_id": caller.parent_span_id,
        "correlation_id": caller.correlation_id,
    }


def decision_of(verdicts: Sequence[Verdict]) -> Decision:
    """Return the decision that verdicts come to."""
    found = [verdict.decision for verdict in verdicts]
    if "blocked" in found:
        return "blocked"
    return "redacted" if "redacted" in found else "allowed"


def reasons_of(verdicts: Sequence[Verdict]) -> tuple[str, ...]:
    """Return the reasons of verdicts, each once."""
    return tuple(dict.fromkeys([reason for verdict in verdicts for reason in verdict.reasons]))


def _policy(call: "Governed[Any]") -> Fields | None:
    verdicts = call.all_verdicts()
    if not verdicts:
        return None
    findings: dict[str, Counter[str]] = {}
    for direction, some in call.verdicts.items():
        for verdict in some:
            if verdict.findings:
                findings.setdefault(direction, Counter()).update(verdict.findings)
    return {
        "decision": decision_of(verdicts),
        "reasons": reasons_of(verdicts),
        "redactions": [
            {"type": r.type, "field": r.field, "start": r.start, "end": r.end}
            for v in verdicts
            for r in v.redactions
        ],
        "findings": findings,
    }


def _price(call: "Governed[Any]") -> Fields | None:
    if call.target is None or call.plan is None or (price := call.target.price) is None:
        return None
    return {
        "catalog_version": call.plan.catalog_version,
        "input_per_million": price.input_per_million,
        "output_per_million": price.output_per_million,
    }


def _route(call: "Governed[Any]") -> Fields | None:
    if (plan := call.plan) is None:
        return None
    target = call.target
    canary = target.limits.canary if target and target.limits else None
    return {
        "name": plan.route,
        "catalog_version": plan.catalog_version,
        "attempts": [
            {
                "backend": a.backend,
                "model": a.model,
                "outcome": a.code or a.outcome,
                "latency_ms": a.ms,
            }
            for a in call.trail
        ],
        "fallback_used": target is not None and target is not plan.targets[0],
        "canary": None if canary is None else f"{canary.percent:g}% by {canary.by}",
    }


def _budget(call: "Governed[Any]") -> Fields | None:
    held = call.reservation
    if held is None or not held.reserved:
        return None
    return {"reserved": held.reserved, "settled": held.settled or {}}


def _error(call: "Governed[Any]", error: BaseException | None) -> Fields | None:
    if error is None:
        return None
    if isinstance(error, AgentOSError):
        # A backend may quote what it was asked: of content that can be erased nothing stays here.
        said = NOT_KEPT if _is_erasable(call) else error.message[:256]
        return {"code": error.code, "message": said}
    return {"code": "canceled", "message": "the caller went away"}


def _is_erasable(call: "Governed[Any]") -> bool:
    if call.caller.sealed:
        return True
    tenant = call.gates.known.peek(Tenant, tenant_ref(call.caller.auth.tenant_id))
    return tenant is not None and tenant.status is not None and tenant.profile.privacy.erasure
