"""`/v1/runs/{run_id}/approvals` over HTTP, with the handlers behind the door."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.federation.node import FedNode
from tests.gateways.conftest import bearer

BOSS = bearer(roles=["tenant_admin"], scope=None, sub="usr_boss")
YES = {"decision": "approve"}


@pytest.fixture
async def node() -> AsyncIterator[FedNode]:
    """A node with its handlers."""
    opened = await FedNode("stk_a").open()
    yield opened
    await opened.close()


@pytest.fixture
async def run_id(node: FedNode) -> str:
    """A run."""
    body = {"input": {"type": "text", "text": "hi"}}
    _, answer = await node.call("POST", "/v1/agents/agt_a/runs", door=0, json=body)
    found: str = answer["run"]["run_id"]
    return found


async def test_asked_seen_decided_and_seen_again(node: FedNode, run_id: str) -> None:
    path = f"/v1/runs/{run_id}/approvals"
    status, body = await node.call("GET", path, door=0)
    assert (status, body["approvals"]) == (200, [])
    approval_id = await node.ask(run_id)
    _, body = await node.call("GET", path, door=0)
    (shown,) = body["approvals"]
    assert (shown["approval_id"], shown["status"]) == (approval_id, "pending")
    assert (shown["run_id"], shown["agent_id"]) == (run_id, "agt_a")
    assert shown["expires_at"] > shown["requested_at"]
    status, run = await node.call("GET", f"/v1/runs/{run_id}", door=0)
    assert run["run"]["status"] == "running", "waiting is no public state"
    decided = f"{path}/{approval_id}"
    headers = BOSS | {"Idempotency-Key": "one"}
    for _ in range(2):
        status, body = await node.call("POST", decided, door=0, headers=headers, json=YES)
        assert (status, body["approval"]["by"]) == (200, "usr_boss")
    status, body = await node.call(
        "POST", decided, door=0, headers=BOSS, json={"decision": "reject"}
    )
    assert (status, body["error"]["code"]) == (409, "invalid_state_transition")
    assert body["error"]["details"] == {"status": "approved", "by": "usr_boss"}


async def test_who_may_not_and_what_is_not_there(node: FedNode, run_id: str) -> None:
    approval_id = await node.ask(run_id)
    path = f"/v1/runs/{run_id}/approvals/{approval_id}"
    status, body = await node.call("POST", path, door=0, json=YES)
    assert (status, body["error"]["details"]["required_scope"]) == (403, "tools:approve")
    narrowed = YES | {"auth": {"scopes": ["runs:read"]}}
    assert (await node.call("POST", path, door=0, headers=BOSS, json=narrowed))[0] == 403
    await node.handled.tenant("tnt_b")
    other = bearer(roles=["tenant_admin"], scope=None, tenant_id="tnt_b")
    assert (await node.call("POST", path, door=0, headers=other, json=YES))[0] == 404
    assert (await node.call("GET", f"/v1/runs/{run_id}/approvals", door=0, headers=other))[0] == 404
    for wrong in (
        f"/v1/runs/{run_id}/approvals/apr_none",
        f"/v1/runs/run_none/approvals/{approval_id}",
    ):
        assert (await node.call("POST", wrong, door=0, headers=BOSS, json=YES))[0] == 404
    assert (await node.handled.run(run_id)).is_waiting


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "invalid_json"),
        (b"{", 400, "invalid_json"),
        (b"[]", 400, "invalid_request"),
        (b"{}", 400, "invalid_request"),
        (b'{"decision": "yes"}', 400, "invalid_request"),
        (b'{"decision": true}', 400, "invalid_request"),
        (b'{"decision": "approve", "reason": 1}', 400, "invalid_request"),
        (b'{"decision": "approve", "reason": "\\u0000"}', 400, "invalid_request"),
        (b'{"decision": "approve", "reason": "%b"}' % (b"x" * 1025), 400, "invalid_request"),
        (b'{"decision": "approve", "auth": {"tenant_id": "tnt_x"}}', 400, "tenant_mismatch"),
    ],
)
async def test_bad_bodies_decide_nothing(
    node: FedNode, run_id: str, body: bytes, status: int, code: str
) -> None:
    approval_id = await node.ask(run_id)
    path = f"/v1/runs/{run_id}/approvals/{approval_id}"
    headers: dict[str, Any] = BOSS | {"Content-Type": "application/json"}
    got, answer = await node.call("POST", path, door=0, headers=headers, data=body)
    assert (got, answer["error"]["code"]) == (status, code)
    assert (await node.handled.run(run_id)).is_waiting


@pytest.mark.parametrize("name", ["x" * 257, "a%00b", "a%0Ab", "%7F", "a%2Fb%2Fc", "%F0%9F%98%80"])
async def test_ids_that_are_none(node: FedNode, run_id: str, name: str) -> None:
    path = f"/v1/runs/{run_id}/approvals/{name}"
    status, answer = await node.call("POST", path, door=0, headers=BOSS, json=YES)
    assert status in (400, 404)
    assert answer["error"]["code"] in ("invalid_request", "not_found")
