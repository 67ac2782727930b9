"""Tenant: made once, with its plan's limits and its own quotas over them."""

from typing import Any

import pytest
from pydantic import ValidationError

from agentos.domain.errors import ConflictError, InvalidRequestError, TenantUnknownError
from agentos.domain.tenant.tenant import PLAN_LIMITS, RunLimits, Tenant, tenant_ref
from tests.domain.given import moment, reread, types


def created(plan: str = "standard", quotas: dict[str, Any] | None = None) -> Tenant:
    tenant = Tenant(tenant_ref("tnt_a"))
    events = tenant.create(name="A", plan_tier=plan, quotas=quotas or {}, at=moment())
    assert types(events) == ["tenant.created"]
    assert reread(tenant, events) == events
    for event in events:
        tenant.evolve(event)
    return tenant


def test_a_tenant_that_was_never_made_may_not_act() -> None:
    with pytest.raises(TenantUnknownError):
        Tenant(tenant_ref("tnt_a")).require_active()


@pytest.mark.parametrize("plan", sorted(PLAN_LIMITS))
def test_a_tenant_has_its_plans_limits(plan: str) -> None:
    tenant = created(plan)
    tenant.require_active()
    assert tenant.run_limits == PLAN_LIMITS[plan]


def test_its_own_quotas_go_over_the_plan() -> None:
    tenant = created("standard", {"runs": {"max_concurrent_runs": 7}})
    assert tenant.run_limits == RunLimits(
        max_concurrent_runs=7, run_create_qps=50, run_create_burst=100
    )


def test_a_tenant_is_made_once() -> None:
    with pytest.raises(ConflictError):
        created().create(name="A", plan_tier="demo", quotas={}, at=moment())


def test_what_no_fold_could_read_is_not_written() -> None:
    tenant = Tenant(tenant_ref("tnt_a"))
    with pytest.raises(InvalidRequestError):
        tenant.create(name="A", plan_tier="gold", quotas={}, at=moment())
    with pytest.raises(ValidationError):
        tenant.create(
            name="A", plan_tier="demo", quotas={"runs": {"run_create_qps": 0}}, at=moment()
        )
