"""Three real nodes: a run at a peer waits for a person of its origin, whatever dies meanwhile."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from tests.journeys.fed_nodes import TENANT, FedMini, Three
from tests.journeys.mini_node import agentos

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.slow,
    pytest.mark.timeout(240),
]
TO_B = {"stack_id": "stk_b"}
BOSS = {"X-Principal-Id": "usr_boss", "X-Scopes": "tools:approve runs:read audit:read"}
RULE = {
    "name": "boss",
    "effect": "require_approval",
    "when": {"direction": ["tool_input"], "tool": ["tool.echo"]},
}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def three() -> AsyncIterator[Three]:
    """The nodes; on B a policy asks for approvals, on the others none does."""
    opened = Three()
    await opened.begin()
    for node in (opened.a, opened.b):
        node.start("auditor")
    body = {"document": {"name": "careful", "rules": [RULE]}, "activate": True}
    scopes = {"X-Scopes": "tenants:admin"}
    url = "/v1/policies/pol_default"
    async with opened.b.http.post(url, json=body, headers=scopes) as answer:
        assert answer.status in (200, 201), await answer.text()
    yield opened
    await opened.finish()


async def pending(node: FedMini, run_id: str) -> str:
    """Wait until a node shows that a run at a peer waits; return the approval's id."""
    async with asyncio.timeout(60):
        while True:
            try:
                async with node.http.get(f"/v1/runs/{run_id}/approvals") as answer:
                    body = await answer.json()
                for one in body.get("approvals", []):
                    if one["status"] == "pending":
                        found: str = one["approval_id"]
                        return found
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.1)


async def decide(
    session: aiohttp.ClientSession, path: str, decision: str, headers: Any = BOSS
) -> tuple[int, dict[str, Any]]:
    said = {"decision": decision, "reason": "as agreed"}
    async with session.post(path, json=said, headers=headers) as answer:
        return answer.status, await answer.json()


async def audited(node: FedMini, action: str, run_or_approval: str) -> dict[str, Any]:
    """Wait for a node's audit record of an action that names this."""
    async with asyncio.timeout(60):
        while True:
            async with node.http.get(f"/v1/audit?action={action}", headers=BOSS) as answer:
                records = (await answer.json()).get("records", [])
            for record in records:
                if run_or_approval in json.dumps(record):
                    found: dict[str, Any] = record
                    return found
            await asyncio.sleep(0.2)


async def same_heads(a: FedMini, b: FedMini, run_id: str) -> list[dict[str, Any]]:
    copied = await a.copied(run_id)
    assert copied == await b.own_lines(run_id)
    return [json.loads(line)["event"] for line in copied]


async def test_approved_at_its_origin_while_both_nodes_were_killed(three: Three) -> None:
    a, b = three.a, three.b
    run_id = await a.forwarded(TO_B, 'call tool.echo {"text": "hi"}')
    approval_id = await pending(a, run_id)
    for name in ("executor", "handlers", "gateway"):
        b.kill(name)
    a.kill("gateway")
    for name in ("executor", "handlers", "gateway"):
        b.start(name)
    a.start("gateway")
    await a.gateway_up()
    await b.gateway_up()
    assert await pending(a, run_id) == approval_id
    path = f"/v1/runs/{run_id}/approvals/{approval_id}"
    nobody = {"X-Principal-Id": "usr_x", "X-Scopes": "runs:forward runs:read runs:cancel"}
    assert (await decide(a.http, path, "approve", nobody))[0] == 403
    async with asyncio.timeout(60):
        while (said := await decide(a.http, path, "approve"))[0] != 200:
            assert said[0] in (502, 503, 504), said
            await asyncio.sleep(0.2)
    assert said[1]["approval"]["by"] == "usr_boss"
    events = await same_heads(a, b, run_id)
    types = [e["type"].removeprefix("agentos.") for e in events]
    assert types[-1] == "run.completed"
    assert types.count("tool.call.approved") == 1
    assert types.count("tool.call.requested") == 1
    assert (await decide(a.http, path, "reject"))[0] == 409
    there = await audited(b, "tools.approve", approval_id)
    assert (there["principal"]["principal_id"], there["tenant_id"]) == ("usr_boss", TENANT)
    here = await audited(a, "federation.runs.approve", approval_id)
    assert here["principal"]["principal_id"] == "usr_boss"


async def test_rejected_through_the_federation_door_over_a_link_that_was_cut(three: Three) -> None:
    a, b = three.a, three.b
    run_id = await a.forwarded(TO_B, 'call tool.echo {"text": "hi"}')
    approval_id = await pending(a, run_id)
    links = three.link(a, b)
    for link in links:
        link.cut()
    path = f"/v1/federation/runs/{run_id}/approvals/{approval_id}"
    async with a.fed.get(f"/v1/federation/runs/{run_id}/approvals") as answer:
        assert (await answer.json())["approvals"][0]["status"] == "pending"
    status, body = await decide(a.fed, path, "reject")
    assert (status, body["error"]["code"]) == (502, "forward_failed")
    for link in links:
        link.heal()
    async with asyncio.timeout(60):
        while (said := await decide(a.fed, path, "reject"))[0] != 200:
            assert said[0] in (502, 503, 504), said
            await asyncio.sleep(0.2)
    events = await same_heads(a, b, run_id)
    assert events[-1]["type"] == "agentos.run.completed"
    assert "approval_rejected" in events[-1]["payload"]["output"]["text"]


async def test_what_both_nodes_wrote_down_can_be_proved(three: Three) -> None:
    """Both chains of the tenant hold, with a decision that went from one node to the other."""
    a, b = three.a, three.b
    run_id = await a.forwarded(TO_B, 'call tool.echo {"text": "hi"}')
    approval_id = await pending(a, run_id)
    path = f"/v1/runs/{run_id}/approvals/{approval_id}"
    assert (await decide(a.http, path, "approve"))[0] == 200
    for node, action in ((a, "federation.runs.approve"), (b, "tools.approve")):
        await audited(node, action, approval_id)
        node.processes["auditor"].terminate()  # a clean stop signs what there is
        assert await asyncio.to_thread(node.processes.pop("auditor").wait, 20) == 0
        code, said = await agentos(node, "audit", "verify", "--tenant", TENANT, "--json")
        node.start("auditor")
        verdict = json.loads(said)
        assert (code, verdict["ok"], verdict["first_bad"]) == (0, True, None), said
        assert verdict["signed_to"] == verdict["records"] > 0
