"""What a tenant may use of a resource in each calendar window, as its quotas and policy say."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agentos.domain.admission.events import Resource
from agentos.domain.admission.windows import Span
from agentos.domain.errors import InvalidRequestError
from agentos.domain.tenant.quotas import HUGE, ModelLimits
from agentos.domain.tenant.tenant import Tenant

REQUESTS: Final = "requests"
TOKENS: Final = "tokens"
MICRO_USD: Final = "micro_usd"
MICRO: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Budget:
    """At most so much of a unit in one calendar window (or `ever`)."""

    span: Span
    unit: str
    limit: int


class TokenPolicy(BaseModel):
    """`policy.token_budget` of a tenant: further limits beside its quotas."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    max_tokens_per_hour: int | None = Field(default=None, ge=0, le=HUGE)
    max_tokens_per_day: int | None = Field(default=None, ge=0, le=HUGE)


def token_policy(policy: Mapping[str, Any] | None) -> TokenPolicy:
    """Return a tenant's `policy.token_budget`; `InvalidRequestError` where it is none."""
    try:
        return TokenPolicy.model_validate((policy or {}).get("token_budget") or {})
    except ValidationError as exc:
        where = ["policy", "token_budget"]
        errors = [
            {"loc": [*where, *e["loc"]], "msg": e["msg"]}
            for e in exc.errors(include_url=False, include_context=False)
        ]
        raise InvalidRequestError("policy.token_budget does not fit", errors=errors) from exc


def budgets_of(tenant: Tenant, resource: Resource) -> tuple[Budget, ...]:
    """Return what a tenant may use of a resource; none is no limit.

    Of several budgets each holds. Raises `InvalidRequestError` for a tenant whose
    `policy.token_budget` is none: nothing may be spent then, rather than everything.
    """
    limits = tenant.limits
    if resource == "tools" and limits.tools and limits.tools.tool_calls_per_minute is not None:
        return (Budget("minute", "calls", limits.tools.tool_calls_per_minute),)
    if resource == "storage" and limits.storage and limits.storage.max_memory_bytes is not None:
        return (Budget("ever", "bytes", limits.storage.max_memory_bytes),)
    if resource != "models":
        return ()
    further = token_policy(tenant.profile.policy)
    windows: tuple[tuple[Span, int | None], ...] = (
        ("hour", further.max_tokens_per_hour),
        ("day", further.max_tokens_per_day),
    )
    more = (Budget(span, TOKENS, limit) for span, limit in windows if limit is not None)
    return (*(model_budgets(limits.models) if limits.models else ()), *more)


def model_budgets(limits: ModelLimits) -> list[Budget]:
    """Return the budgets that a tenant's quotas of models come to."""
    budgets: list[Budget] = []
    if limits.max_requests_per_minute is not None:
        budgets.append(Budget("minute", REQUESTS, limits.max_requests_per_minute))
    if (budget := limits.token_budget) is not None:
        if budget.max_tokens is not None:
            budgets.append(Budget(budget.window, TOKENS, budget.max_tokens))
        if budget.max_cost_usd is not None:
            limit = round(budget.max_cost_usd * MICRO)
            budgets.append(Budget(budget.window, MICRO_USD, limit))
    return budgets
