"""An approval of a run at a peer: seen at the origin, decided with the caller's own right."""

import asyncio
from typing import Any

import pytest

from agentos.domain.run.run import Run
from agentos.federation.trust import allowed_scopes
from tests.federation.fake_peer import FakePeer
from tests.federation.node import TENANT, FedNode, two_nodes
from tests.federation.peering import entry
from tests.gateways.conftest import bearer

BOSS: dict[str, Any] = {"roles": ["tenant_admin"], "sub": "usr_boss", "scope": None}
DOORS = [(0, "/v1/runs"), (2, "/v1/federation/runs")]
ADMIN_HEADERS = {
    "X-Tenant-Id": TENANT,
    "X-Principal-Id": "usr_boss",
    "X-Stack-Id": "stk_a",
}


async def waiting(a: FedNode, b: FedNode) -> tuple[str, str]:
    """Forward a run from A to B that waits there for an approval."""
    status, body = await a.forward({"stack_id": "stk_b"})
    assert status == 200, body
    run_id: str = body["forwarded"]["remote_run_id"]
    approval_id = await b.ask(run_id)
    await a.wait_copied(run_id, len(await b.lines(run_id)))
    return run_id, approval_id


async def run_at(node: FedNode, run_id: str) -> Run:
    run: Run = await node.handled.run(run_id, TENANT)
    return run


@pytest.mark.parametrize(("door", "prefix"), DOORS)
async def test_it_is_seen_here_and_decided_there_once(door: int, prefix: str) -> None:
    async with two_nodes() as (a, b):
        run_id, approval_id = await waiting(a, b)
        path = f"{prefix}/{run_id}/approvals"
        status, body = await a.call("GET", path, door=door)
        (shown,) = body["approvals"]
        assert (status, shown["approval_id"], shown["status"]) == (200, approval_id, "pending")
        assert shown["input"]["n"].startswith("tcall_")

        async def decide(decision: str, **claims: Any) -> tuple[int, dict[str, Any]]:
            said = {"decision": decision, "reason": "as agreed"}
            headers = bearer(**(BOSS | claims))
            return await a.call(
                "POST", f"{path}/{approval_id}", door=door, headers=headers, json=said
            )

        status, body = await decide("approve", roles=["tenant_user"])
        assert (status, body["error"]["code"]) == (403, "forbidden")
        assert (await run_at(b, run_id)).is_waiting
        status, body = await decide("approve")
        assert (status, body["approval"]["status"]) == (200, "approved")
        assert body["run"]["remote"]["stack_id"] == "stk_b"
        approval = (await run_at(b, run_id)).approvals.all[approval_id]
        assert (approval.decision, approval.by, approval.why) == (
            "approve",
            "usr_boss",
            "as agreed",
        )
        again = await decide("approve")
        assert again[0] == 200
        status, body = await decide("reject")
        assert (status, body["error"]["code"]) == (409, "invalid_state_transition")
        await a.wait_copied(run_id, len(await b.lines(run_id)))
        _, body = await a.call("GET", path, door=door)
        assert body["approvals"][0]["status"] == "approved"


@pytest.mark.parametrize(("door", "prefix"), DOORS)
async def test_what_is_not_there_and_what_does_not_fit(door: int, prefix: str) -> None:
    async with two_nodes() as (a, b):
        run_id, approval_id = await waiting(a, b)
        boss = bearer(**BOSS)

        async def post(run: str, approval: str, said: Any) -> int:
            path = f"{prefix}/{run}/approvals/{approval}"
            return (await a.call("POST", path, door=door, headers=boss, json=said))[0]

        yes = {"decision": "approve"}
        assert await post("run_01JD7K3V9YQ4M8R2T6W0X5Z1ZZ", approval_id, yes) == 404
        assert await post(run_id, "apr_none", yes) == 404
        assert await post(run_id, approval_id, {"decision": "maybe"}) == 400
        assert await post(run_id, approval_id, {}) == 400
        assert await post("not-an-id", approval_id, yes) == 400
        await a.handled.tenant("tnt_b")
        other = bearer(**BOSS, tenant_id="tnt_b")
        path = f"{prefix}/{run_id}/approvals"
        assert (await a.call("GET", path, door=door, headers=other))[0] == 404
        status, _ = await a.call(
            "POST", f"{path}/{approval_id}", door=door, headers=other, json=yes
        )
        assert status == 404
        assert (await run_at(b, run_id)).is_waiting


async def test_who_comes_through_a_peer_decides_on_runs_that_came_through_it() -> None:
    async with two_nodes() as (a, b):
        run_id, approval_id = await waiting(a, b)
        _, body = await b.call(
            "POST",
            "/v1/agents/agt_a/runs",
            door=0,
            json={"input": {"type": "text", "text": "own"}},
        )
        own = body["run"]["run_id"]
        own_approval = await b.ask(own)

        async def decide(run: str, approval: str, scopes: str) -> int:
            headers = ADMIN_HEADERS | {"X-Scopes": scopes}
            path = f"/v1/runs/{run}/approvals/{approval}"
            said = {"decision": "reject"}
            return (await b.call("POST", path, door=0, headers=headers, json=said))[0]

        assert await decide(own, own_approval, "runs:forward tools:approve") == 404
        assert await decide(run_id, approval_id, "runs:forward") == 403
        assert await decide(run_id, approval_id, "tools:approve") == 403
        assert await decide(run_id, approval_id, "runs:forward tools:approve") == 200


async def test_without_the_peer_it_is_seen_from_the_copy_and_not_decided() -> None:
    async with two_nodes() as (a, b):
        run_id, approval_id = await waiting(a, b)
        await b.door.close()
        path = f"/v1/federation/runs/{run_id}/approvals"
        status, body = await a.call("GET", path)
        assert (status, body["approvals"][0]["status"]) == (200, "pending")
        status, body = await a.call(
            "POST", f"{path}/{approval_id}", headers=bearer(**BOSS), json={"decision": "approve"}
        )
        assert (status, body["error"]["code"]) == (502, "forward_failed")


async def test_an_answer_that_was_lost_is_asked_for_again(node: FedNode, fake: FakePeer) -> None:
    fake.decision_answers = ["cut", (503, {}), *fake.decision_answers]
    status, body = await node.forward({"stack_id": "stk_fake"})
    run_id = body["forwarded"]["remote_run_id"]
    path = f"/v1/federation/runs/{run_id}/approvals/apr_1"
    said = {"decision": "approve"}
    headers = bearer(**BOSS) | {"Idempotency-Key": "k"}
    status, _ = await node.call("POST", path, headers=headers, json=said)
    assert status == 200
    assert fake.decided == [said] * 3
    assert [h["Idempotency-Key"] for h in fake.headers[-3:]] == ["k"] * 3
    assert all("tools:approve" in h["X-Scopes"].split() for h in fake.headers[-3:])
    assert "tools:approve" not in fake.headers[0]["X-Scopes"].split(), "a forward needs no such"


async def test_two_of_one_mind_and_one_of_another_at_once() -> None:
    async with two_nodes() as (a, b):
        run_id, approval_id = await waiting(a, b)
        path = f"/v1/federation/runs/{run_id}/approvals/{approval_id}"
        asked = [("approve", "usr_a"), ("reject", "usr_b"), ("approve", "usr_c")]
        found = await asyncio.gather(
            *(
                a.call("POST", path, headers=bearer(**BOSS | {"sub": by}), json={"decision": said})
                for said, by in asked
            )
        )
        stands = (await run_at(b, run_id)).approvals.all[approval_id].decision
        for (said, _), (status, _) in zip(asked, found, strict=True):
            assert status == (200 if said == stands else 409)


def test_a_peer_without_the_right_to_forward_approves_nothing() -> None:
    claimed = frozenset({"tools:approve", "runs:forward", "runs:read"})
    assert "tools:approve" in allowed_scopes(claimed, None)
    assert "tools:approve" not in allowed_scopes(claimed - {"runs:forward"}, None)
    without = entry("stk_x", ["http://x", "http://x", "http://x"], rights=("events:ingest",))
    assert allowed_scopes(claimed, without) == frozenset()
