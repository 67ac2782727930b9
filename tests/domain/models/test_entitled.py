"""Entitlement: tiers, backends, models, the tenant's own policy; deny wins."""

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentos.domain.models.catalog import TIERS, Tier
from agentos.domain.models.entitled import entitled
from agentos.domain.tenant.tenant import Profile


@dataclass(frozen=True)
class AModel:
    model_id: str
    tier: Tier | None = None


LARGE = AModel("openai/gpt-large", "premium")
SMALL = AModel("openai/gpt-small", "fast")
ECHO = AModel("builtin/echo")


def allows(asked: str, model: AModel, policy: Any = None, **entitlements: Any) -> bool:
    profile = Profile.model_validate(
        {"name": "A", "entitlements": entitlements, "policy": policy or {}}
    )
    return entitled(profile).allows(asked, model)


def test_a_tenant_without_limits_may_use_everything() -> None:
    assert all(allows(m.model_id, m) for m in (LARGE, SMALL, ECHO))


@pytest.mark.parametrize(
    ("asked", "model", "entitlements", "expected"),
    [
        ("openai/gpt-large", LARGE, {"model_tiers_allowed": ["fast"]}, False),
        ("openai/gpt-small", SMALL, {"model_tiers_allowed": ["fast"]}, True),
        ("builtin/echo", ECHO, {"model_tiers_allowed": []}, True),
        ("tier:fast", ECHO, {"model_tiers_allowed": []}, False),
        ("tier:premium", ECHO, {"model_tiers_allowed": ["fast"]}, False),
        ("tier:fast", LARGE, {"model_tiers_allowed": ["fast"]}, False),
        ("builtin/echo", ECHO, {"model_backends_allowed": ["openai"]}, False),
        ("openai/gpt-small", SMALL, {"model_backends_allowed": ["openai"]}, True),
        ("openai/gpt-small", SMALL, {"model_backends_allowed": ["open*"]}, True),
        ("openai/gpt-small", SMALL, {"model_backends_allowed": []}, False),
        ("openai/gpt-small", SMALL, {"models_allowed": []}, False),
        ("openai/gpt-small", SMALL, {"models_allowed": ["gpt-small"]}, True),
        ("openai/gpt-small", SMALL, {"models_allowed": ["openai/*"]}, True),
        ("openai/gpt-small", SMALL, {"models_allowed": ["gpt-smal"]}, False),
        ("quick", SMALL, {"models_allowed": ["quick"]}, True),
        ("tier:fast", SMALL, {"models_allowed": ["tier:fast"]}, True),
        ("openai/gpt-small", SMALL, {"models_allowed": ["tier:fast"]}, False),
        ("openai/gpt-small", SMALL, {"models_denied": ["gpt-small"]}, False),
        ("quick", SMALL, {"models_denied": ["openai/*"]}, False),
        ("quick", SMALL, {"models_denied": ["quick"]}, False),
        ("openai/gpt-large", LARGE, {"models_denied": ["gpt-small"]}, True),
        ("quick", SMALL, {"models_allowed": ["*"], "models_denied": ["*small"]}, False),
        ("openai/gpt-small", SMALL, {"models_allowed": ["openai/gpt-?mall"]}, False),
        ("openai/gpt-small", SMALL, {"models_allowed": ["openai/gpt-[s]mall"]}, False),
    ],
)
def test_entitlements(
    asked: str, model: AModel, entitlements: dict[str, Any], expected: bool
) -> None:
    assert allows(asked, model, **entitlements) is expected


def test_the_tenants_own_policy_only_narrows() -> None:
    assert not allows("quick", LARGE, {"allowed_models": ["gpt-small"]})
    assert not allows("quick", LARGE, {"allowed_models": ["*"]}, models_allowed=["gpt-small"])
    assert not allows("quick", SMALL, {"denied_models": ["gpt-small"]}, models_allowed=["*"])
    assert not allows("quick", SMALL, {"denied_models": "gpt-small"})
    assert not allows("quick", SMALL, {"allowed_models": []})
    assert not allows("quick", SMALL, {"allowed_models": [7]})
    assert allows("quick", SMALL, {"allowed_models": ["gpt-small"], "other": 1})


NAMES = st.sampled_from(["*", "openai/*", "gpt-small", "builtin/echo", "tier:fast", "quick"])
LISTS = st.lists(NAMES, max_size=3)


@given(
    st.sampled_from([LARGE, SMALL, ECHO]),
    st.sampled_from(["quick", "tier:fast", "openai/gpt-small"]),
    st.sets(st.sampled_from(TIERS)),
    st.none() | LISTS,
    LISTS,
    NAMES,
)
def test_another_denial_never_allows_more(
    model: AModel,
    asked: str,
    tiers: set[Tier],
    allowed: list[str] | None,
    denied: list[str],
    more: str,
) -> None:
    rules: dict[str, Any] = {"model_tiers_allowed": sorted(tiers), "models_allowed": allowed}
    before = allows(asked, model, models_denied=denied, **rules)
    after = allows(asked, model, models_denied=[*denied, more], **rules)
    narrowed = allows(asked, model, {"denied_models": [more]}, models_denied=denied, **rules)
    assert after <= before
    assert narrowed == after
