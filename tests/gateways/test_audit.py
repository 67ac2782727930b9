"""GET /v1/audit: whose records, which of them, and that a foreign look is recorded first."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from agentos.domain.errors import DependencyUnavailableError
from agentos.projections.audit_records.queries import AuditFilters
from tests.gateways.conftest import TENANT, Door, bearer
from tests.gateways.test_admin import OWN, PLATFORM, HandledNode
from tests.handlers.auditor.audited import records_of


@pytest.fixture
async def node(door: Door) -> AsyncIterator[HandledNode]:
    """Handlers behind the door, and a tenant that is not the platform's."""
    node = HandledNode(door)
    await node.answer()
    await node.tenant("tnt_x")
    yield node
    await node.close()


async def get(door: Door, query: str = "", headers: Any = OWN) -> tuple[int, dict[str, Any]]:
    status, answer, _ = await door.call("GET", f"/v1/audit{query}", headers=headers)
    return status, answer if isinstance(answer, dict) else json.loads(answer)


async def test_a_tenants_admin_reads_its_own_records(door: Door) -> None:
    query = "?action=keys.issue&principal_id=usr_a&outcome=denied&run_id=run_1&limit=7&cursor=c"
    query += "&after=2026-01-01T00:00:00Z&before=2026-01-01T00:00:01Z"
    status, answer = await get(door, query)
    assert status == 200
    assert answer["records"] == [{"tenant_id": TENANT}]
    assert answer["next_cursor"] == "more"
    at = 1_767_225_600_000
    filters = AuditFilters("keys.issue", "usr_a", "denied", "run_1", at, at + 1000)
    assert door.reads.asked == [(TENANT, filters, 7, "c")]


async def test_the_scope_is_asked_for(door: Door) -> None:
    assert (await get(door, headers=bearer()))[0] == 403
    assert (await get(door, headers={}))[0] == 401


@pytest.mark.parametrize("query", ["?outcome=maybe", "?limit=0", "?after=now", "?tenant_id=x.y",
    "?tenant_id=run_1", "?action=a&action=b"])  # fmt: skip
async def test_what_does_not_fit_is_400(door: Door, query: str) -> None:
    assert (await get(door, query))[0] == 400


@pytest.mark.parametrize("tenant_id", ["tnt_x", "tnt_none"])
async def test_no_tenant_sees_anothers(door: Door, node: HandledNode, tenant_id: str) -> None:
    status, _ = await get(door, f"?tenant_id={tenant_id}")
    assert status == 404
    assert (await get(door, "?tenant_id=tnt_node"))[0] == 403
    assert door.reads.asked == []


async def test_a_platform_admin_sees_anothers_and_that_is_recorded(
    door: Door, node: HandledNode
) -> None:
    status, answer = await get(door, "?tenant_id=tnt_x&action=keys.issue", PLATFORM)
    assert status == 200
    assert answer["records"] == [{"tenant_id": "tnt_x"}]
    (record,) = await records_of(node.log, "tnt_x")
    assert (record["action"], record["outcome"]) == ("audit.query", "allowed")
    assert record["principal"]["principal_id"] == "usr_platform_admin"
    assert record["meta"] == {"by_tenant": "tnt_root", "filters": "action"}
    assert (await get(door, "?tenant_id=tnt_node", PLATFORM))[0] == 200
    assert len(await records_of(node.log, "tnt_node")) == 1


async def test_a_look_that_cannot_be_recorded_is_not_granted(door: Door, node: HandledNode) -> None:
    assert (await get(door, "?tenant_id=tnt_none", PLATFORM))[0] == 404

    async def away(*_: Any) -> dict[str, Any]:
        raise DependencyUnavailableError("away", dependency="nats")

    door.bus.handlers["audit.query"] = away
    assert (await get(door, "?tenant_id=tnt_x", PLATFORM))[0] == 503
    assert door.reads.asked == []
