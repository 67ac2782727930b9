"""What a tenant may use, and what its plan tier gives where nothing is said."""

import math
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from agentos.domain.envelope import is_none

HUGE: Final = 10**15
PlanTier = Literal["standard", "premium", "demo"]
Window = Literal["minute", "hour", "day", "month"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class RunLimits(_Part):
    """How many runs at once, and how many new ones a second; `None` is no limit."""

    max_concurrent_runs: int | None = Field(default=None, ge=0, le=HUGE, exclude_if=is_none)
    run_create_qps: float | None = Field(default=None, gt=0, le=1e6, exclude_if=is_none)
    run_create_burst: int | None = Field(default=None, ge=1, le=1_000_000, exclude_if=is_none)


class ToolLimits(_Part):
    """How many tool calls a minute; calls over it wait."""

    tool_calls_per_minute: int | None = Field(default=None, ge=1, le=HUGE, exclude_if=is_none)


class TokenBudget(_Part):
    """Tokens and dollars in one calendar window in UTC."""

    window: Window = "day"
    max_tokens: int | None = Field(default=None, ge=0, le=HUGE, exclude_if=is_none)
    max_cost_usd: float | None = Field(default=None, ge=0, le=1e12, exclude_if=is_none)


class ModelLimits(_Part):
    """What model calls may use."""

    token_budget: TokenBudget | None = Field(default=None, exclude_if=is_none)
    max_tokens_per_request: int | None = Field(default=None, ge=1, le=HUGE, exclude_if=is_none)
    max_requests_per_minute: int | None = Field(default=None, ge=1, le=HUGE, exclude_if=is_none)


class StorageLimits(_Part):
    """How much may be kept."""

    max_memory_bytes: int | None = Field(default=None, ge=0, le=HUGE, exclude_if=is_none)


class Quotas(_Part):
    """A tenant's quotas; an absent part is the plan tier's default."""

    runs: RunLimits | None = Field(default=None, exclude_if=is_none)
    tools: ToolLimits | None = Field(default=None, exclude_if=is_none)
    models: ModelLimits | None = Field(default=None, exclude_if=is_none)
    storage: StorageLimits | None = Field(default=None, exclude_if=is_none)


def _plan(times: int) -> Quotas:
    return Quotas(
        runs=RunLimits(
            max_concurrent_runs=100 * times,
            run_create_qps=50 * times,
            run_create_burst=100 * times,
        ),
        models=ModelLimits(token_budget=TokenBudget(window="day", max_tokens=1_000_000 * times)),
    )


PLANS: Final[dict[PlanTier, Quotas]] = {
    "standard": _plan(1),
    "premium": _plan(10),
    "demo": Quotas(),
}


def effective(plan_tier: PlanTier, quotas: Quotas) -> Quotas:
    """Return what holds: what the tenant's quotas say, else what its plan tier says."""
    merged = _merge(PLANS[plan_tier].model_dump(), quotas.model_dump())
    return Quotas.model_validate(merged)


def _merge(plan: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    merged = dict(plan)
    for name, value in own.items():
        below = plan.get(name)
        nested = isinstance(value, dict) and isinstance(below, dict)
        if nested and value.get("window") == below.get("window"):  # type: ignore[union-attr]
            value = _merge(below, value)  # type: ignore[arg-type]  # noqa: PLW2901
        merged[name] = value
    return merged


def raises_any(old: Quotas, new: Quotas) -> bool:
    """Whether `new` (effective) allows more than `old` anywhere; another window counts so."""
    if _window(old) is not None and _window(old) != _window(new):
        return True
    after = _limits(new.model_dump())
    before = _limits(old.model_dump())
    return any(after.get(name, math.inf) > limit for name, limit in before.items())


def _limits(parts: dict[str, Any], path: str = "") -> dict[str, float]:
    limits: dict[str, float] = {}
    for name, value in parts.items():
        if isinstance(value, dict):
            limits |= _limits(value, f"{path}{name}.")
        elif isinstance(value, int | float):
            limits[f"{path}{name}"] = value
    return limits


def _window(quotas: Quotas) -> str | None:
    budget = quotas.models.token_budget if quotas.models else None
    return budget.window if budget else None
