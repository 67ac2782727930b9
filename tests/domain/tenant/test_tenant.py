"""Tenant: made once, changed as a whole, disabled, deleted for ever."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from pydantic import ValidationError

from agentos.domain.envelope import Event
from agentos.domain.errors import (
    ConflictError,
    InvalidStateTransitionError,
    TenantDisabledError,
    TenantUnknownError,
)
from agentos.domain.tenant.quotas import PLANS, PlanTier, Quotas, RunLimits, effective, raises_any
from agentos.domain.tenant.tenant import Profile, Tenant, tenant_ref
from tests.domain.given import T0, moment, reread, types


def profile(**more: Any) -> Profile:
    return Profile.model_validate({"name": "A"} | more)


def then(tenant: Tenant, events: Sequence[Event]) -> list[str]:
    """Fold events as they come back from their bytes; return their short names."""
    back = reread(tenant, events)
    assert back == list(events)
    for event in back:
        tenant.evolve(event)
    return types(events)


def created(**more: Any) -> Tenant:
    tenant = Tenant(tenant_ref("tnt_a"))
    assert then(tenant, tenant.create(profile(**more), moment())) == ["tenant.created"]
    return tenant


def disabled() -> Tenant:
    tenant = created()
    then(tenant, tenant.disable("drain", moment()))
    return tenant


def deleted() -> Tenant:
    tenant = disabled()
    then(tenant, tenant.delete(moment()))
    return tenant


@pytest.mark.parametrize("tenant", [Tenant(tenant_ref("tnt_a")), deleted()])
def test_a_tenant_that_is_not_there_may_do_nothing(tenant: Tenant) -> None:
    decisions: list[Callable[[], object]] = [
        tenant.require_active,
        lambda: tenant.update(profile(), moment()),
        lambda: tenant.enable(moment()),
        lambda: tenant.disable("cancel", moment()),
        lambda: tenant.delete(moment()),
    ]
    for decide in decisions:
        with pytest.raises(TenantUnknownError):
            decide()


@pytest.mark.parametrize("begin", [created, disabled, deleted])
def test_an_id_is_given_once(begin: Callable[[], Tenant]) -> None:
    with pytest.raises(ConflictError):
        begin().create(profile(), moment())


@pytest.mark.parametrize("plan", sorted(PLANS))
def test_a_tenant_has_its_plans_limits(plan: PlanTier) -> None:
    tenant = created(plan_tier=plan)
    tenant.require_active()
    assert tenant.limits == PLANS[plan]
    assert tenant.run_limits == (PLANS[plan].runs or RunLimits())


def test_its_own_quotas_go_over_the_plan_part_by_part() -> None:
    tenant = created(quotas={"runs": {"max_concurrent_runs": 7}})
    assert tenant.run_limits == RunLimits(
        max_concurrent_runs=7, run_create_qps=50, run_create_burst=100
    )


def test_another_window_is_another_budget() -> None:
    own = Quotas.model_validate({"models": {"token_budget": {"window": "hour", "max_tokens": 5}}})
    models = effective("standard", own).models
    assert models is not None
    assert models.token_budget is not None
    assert models.token_budget.model_dump() == {"window": "hour", "max_tokens": 5}


def test_more_anywhere_is_a_raise_and_less_is_none() -> None:
    old = effective("standard", Quotas())
    less = effective("standard", Quotas(runs=RunLimits(max_concurrent_runs=1)))
    assert not raises_any(old, old)
    assert not raises_any(old, less)
    assert raises_any(less, old)
    assert raises_any(old, Quotas())
    assert not raises_any(Quotas(), old)


def test_the_same_profile_again_changes_nothing() -> None:
    tenant = created()
    assert tenant.update(profile(), moment()) == []
    assert then(tenant, tenant.update(profile(name="B"), moment(T0 + 1))) == ["tenant.updated"]
    view = tenant.view()
    assert view["name"] == "B"
    assert view["created_at"] == "2027-01-15T08:00:00.000Z"
    assert view["updated_at"] == "2027-01-15T08:00:00.001Z"


def test_disabled_it_may_not_act_and_enabled_it_may() -> None:
    tenant = disabled()
    with pytest.raises(TenantDisabledError):
        tenant.require_active()
    assert then(tenant, tenant.enable(moment())) == ["tenant.enabled"]
    assert tenant.enable(moment()) == []
    tenant.require_active()


def test_draining_may_become_cancelling_and_not_back() -> None:
    tenant = disabled()
    assert tenant.disable("drain", moment()) == []
    assert then(tenant, tenant.disable("cancel", moment())) == ["tenant.disabled"]
    assert tenant.disable("drain", moment()) == []
    assert tenant.runs == "cancel"


def test_only_a_disabled_tenant_is_deleted() -> None:
    with pytest.raises(InvalidStateTransitionError):
        created().delete(moment())
    assert deleted().status == "deleted"


@pytest.mark.parametrize(
    "bad",
    [
        {"name": ""},
        {"plan_tier": "gold"},
        {"quotas": {"runs": {"run_create_qps": 0}}},
        {"quotas": {"runs": {"run_create_qps": float("nan")}}},
        {"default_policy_id": "pol_a.b"},
        {"policy": {"x": ["\ud800"]}},
    ],
)
def test_what_no_fold_could_read_is_not_written(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        profile(**bad)
