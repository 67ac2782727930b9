"""What is written down of a call: ids, counts and decisions, never a content."""

from collections import Counter
from typing import TYPE_CHECKING, Any

from agentos.domain.errors import AgentOSError
from agentos.domain.ports import Usage
from agentos.domain.run.events import TokenUsage
from agentos.domain.usage.usage import (
    AttemptMade,
    BudgetHeld,
    CallError,
    PolicySaid,
    PriceUsed,
    RedactedSpan,
    RouteChosen,
    Status,
    UsageRecorded,
)

if TYPE_CHECKING:
    from agentos.gateways.model_policy.governed import Governed

__all__ = ["Status", "usage_recorded"]


def usage_recorded(
    call: "Governed[Any]", status: Status, usage: Usage, cost: int, error: BaseException | None
) -> UsageRecorded:
    """Return the event of a call that ended. Validated nowhere: every part is ours."""
    target = call.target
    return UsageRecorded.model_construct(
        request_id=call.request.request_id,
        operation=call.OPERATION,
        model_ref=call.request.model_ref,
        backend=target.backend if target else "",
        model=target.model if target else "",
        node=call.gates.node,
        status=status,
        usage=TokenUsage.model_construct(
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            total_tokens=usage.total_tokens,
        ),
        cost_usd=cost / 1_000_000,
        latency_ms=call.latency_ms(),
        streamed=call.is_streamed,
        agent_id=call.caller.agent_id,
        run_id=call.caller.run_id,
        policy=_policy(call),
        price=_price(call),
        route=_route(call),
        budget=_budget(call),
        error=_error(error),
        stands_for=None,
        correlation_id=call.caller.correlation_id,
    )


def _policy(call: "Governed[Any]") -> PolicySaid | None:
    verdicts = [verdict for some in call.verdicts.values() for verdict in some]
    if not verdicts:
        return None
    findings: dict[str, dict[str, int]] = {}
    for direction, some in call.verdicts.items():
        counted = sum((Counter(verdict.findings) for verdict in some), Counter[str]())
        if counted:
            findings[direction] = dict(counted)
    return PolicySaid.model_construct(
        decision=call.decision(),
        reasons=tuple(dict.fromkeys(r for v in verdicts for r in v.reasons)),
        redactions=tuple(
            RedactedSpan.model_construct(type=r.type, field=r.field, start=r.start, end=r.end)
            for v in verdicts
            for r in v.redactions
        ),
        findings=findings,
    )


def _price(call: "Governed[Any]") -> PriceUsed | None:
    if call.target is None or call.plan is None or (price := call.target.price) is None:
        return None
    return PriceUsed.model_construct(
        catalog_version=call.plan.catalog_version,
        input_per_million=price.input_per_million,
        output_per_million=price.output_per_million,
    )


def _route(call: "Governed[Any]") -> RouteChosen | None:
    if (plan := call.plan) is None:
        return None
    target = call.target
    canary = target.limits.canary if target and target.limits else None
    return RouteChosen.model_construct(
        name=plan.route,
        catalog_version=plan.catalog_version,
        attempts=tuple(
            AttemptMade.model_construct(
                backend=a.backend,
                model=a.model,
                outcome=a.code or a.outcome,
                latency_ms=a.ms,
            )
            for a in call.trail
        ),
        fallback_used=target is not None and target is not plan.targets[0],
        canary=None if canary is None else f"{canary.percent:g}% by {canary.by}",
    )


def _budget(call: "Governed[Any]") -> BudgetHeld | None:
    held = call.reservation
    if held is None or not held.reserved:
        return None
    return BudgetHeld.model_construct(
        reserved=dict(held.reserved), settled=dict(held.settled or {})
    )


def _error(error: BaseException | None) -> CallError | None:
    if error is None:
        return None
    if isinstance(error, AgentOSError):
        return CallError.model_construct(code=error.code, message=error.message[:256])
    return CallError.model_construct(code="canceled", message="the caller went away")
