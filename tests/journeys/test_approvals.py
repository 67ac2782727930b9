"""A real run waits for a person while everything around it dies, and makes its call once."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from agentos.domain.agent.agent import Agent, agent_ref
from agentos.domain.replay.replay import Replay
from agentos.domain.run.run import Run, run_ref
from agentos.infra.jetstream.connection import bounded_close, connect
from agentos.infra.jetstream.log import JetStreamLog
from agentos.infra.tools.probe import calls_file
from tests.journeys.mini_node import MiniNode

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.slow,
    pytest.mark.timeout(240),
]
TENANT, AGENT = "tnt_demo", "agt_careful"
PROCESSES = ("gateway", "handlers", "executor", "projector")
ONCE = "tool.probe.once"
BOSS = {"X-Principal-Id": "usr_boss", "X-Scopes": "tools:approve runs:read"}
POLICY = {
    "name": "careful",
    "rules": [
        {
            "name": "boss",
            "effect": "require_approval",
            "when": {"direction": ["tool_input"], "tool": [ONCE]},
        },
        {
            "name": "never",
            "effect": "block",
            "when": {"direction": ["tool_input"], "tool": ["tool.time"]},
        },
        {
            "name": "mail",
            "effect": "redact",
            "when": {"direction": ["tool_input"], "pii_types": ["email"]},
        },
    ],
}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def node() -> AsyncIterator[MiniNode]:
    """A node, its agent and its policy."""
    opened = MiniNode()
    await opened.open(*PROCESSES)
    await opened.gateway_up()
    await opened.register(AGENT, tools=[ONCE, "tool.echo", "tool.time"])
    body = {"document": POLICY, "activate": True}
    scopes = {"X-Scopes": "tenants:admin"}
    async with opened.http.post("/v1/policies/pol_default", json=body, headers=scopes) as answer:
        assert answer.status in (200, 201), await answer.text()
    yield opened
    await opened.close()


async def a_run(node: MiniNode, text: str, **options: Any) -> str:
    status, body = await node.post_run_until_accepted(text, AGENT, run_options=options)
    assert status == 201, body
    run_id: str = body["run"]["run_id"]
    return run_id


async def pending(node: MiniNode, run_id: str) -> dict[str, Any]:
    """Wait until a run asks, and nothing else of it is in hand; return its approval."""
    async with asyncio.timeout(60):
        while True:
            try:
                async with node.http.get(f"/v1/runs/{run_id}/approvals") as answer:
                    found = (await answer.json()).get("approvals", [])
            except aiohttp.ClientError:
                found = []
            for approval in found:
                if approval["status"] == "pending":
                    shown: dict[str, Any] = approval
                    return shown
            await asyncio.sleep(0.05)


async def decide(
    node: MiniNode, run_id: str, approval: dict[str, Any], decision: str, **more: Any
) -> tuple[int, dict[str, Any]]:
    """Decide; `(0, {})` when the connection broke."""
    path = f"/v1/runs/{run_id}/approvals/{approval['approval_id']}"
    try:
        async with node.http.post(
            path, json={"decision": decision, **more}, headers=BOSS
        ) as answer:
            return answer.status, await answer.json()
    except aiohttp.ClientError:
        return 0, {}


async def decided(node: MiniNode, run_id: str, approval: dict[str, Any], decision: str) -> None:
    """Decide, again and again until the answer says that it stands."""
    async with asyncio.timeout(60):
        while True:
            status, body = await decide(node, run_id, approval, decision)
            if status == 200:
                return
            assert status in (0, 503, 504), body
            await asyncio.sleep(0.1)


def calls(node: MiniNode) -> list[str]:
    """Return every call of the tool that was really made."""
    path = calls_file(node.directory, "once")
    return path.read_text().split() if path.exists() else []


async def replays(node: MiniNode, run_id: str) -> None:
    """Check that the run is decided again to the same bytes from its log alone."""
    connection = await connect(node.nats.url, "journey")
    try:
        log = JetStreamLog(connection)
        agent = Agent(agent_ref(TENANT, AGENT)).fold(await log.read(agent_ref(TENANT, AGENT)))
        ref = run_ref(TENANT, run_id)
        records = await log.read(ref)
        found = Replay(ref, lambda version: agent.versions[version]).feed(records).result()
        assert found.equal, found.first_difference
        assert Run(ref).fold(records).waited_ms >= 0
    finally:
        await bounded_close(connection)


async def test_everything_dies_while_it_waits_and_the_call_is_made_once(node: MiniNode) -> None:
    run_id = await a_run(
        node, f'call {ONCE} {{"label": "to ann@example.com"}}\ncall tool.time {{}}', timeout_ms=6000
    )
    approval = await pending(node, run_id)
    assert approval["reason"] == "approval_required:boss"
    assert approval["input"] == {"label": "to [EMAIL]"}
    for name in PROCESSES:
        node.kill(name)
    await asyncio.sleep(3)
    for name in PROCESSES:
        node.start(name)
    await node.gateway_up()
    again = await pending(node, run_id)
    assert again == approval
    await asyncio.sleep(4)  # longer than the run's own time together with the pause before
    async with node.http.get(f"/v1/runs/{run_id}") as answer:
        assert (await answer.json())["run"]["status"] == "running"
    before = len(calls(node))
    following = asyncio.create_task(node.events(run_id))
    status, body = await decide(node, run_id, approval, "approve", reason="as agreed")
    assert (status, body["approval"]["by"]) == (200, "usr_boss")
    run = await node.finished(run_id)
    assert run["status"] == "completed", run
    assert len(calls(node)) == before + 1
    events = await following
    assert [e["sequence"] for e in events] == list(range(1, len(events) + 1))
    types = [e["type"].removeprefix("agentos.") for e in events]
    at = types.index("tool.call.approved")
    assert types[at : at + 3] == ["tool.call.approved", "run.started", "tool.call.requested"]
    blocked = [e["payload"] for e in events if e["payload"].get("tool_id") == "tool.time"]
    assert [p["error"]["code"] for p in blocked if "error" in p] == ["policy_blocked"]
    assert (await decide(node, run_id, approval, "approve"))[0] == 200
    assert (await decide(node, run_id, approval, "reject"))[0] == 409
    await replays(node, run_id)


@pytest.mark.parametrize(
    ("process", "point"),
    [
        ("handlers", "handlers.after_decided"),
        ("executor", "executor.before_started"),
        ("executor", "executor.after_started"),
    ],
)
async def test_who_goes_on_dies(node: MiniNode, process: str, point: str) -> None:
    run_id = await a_run(node, f'call {ONCE} {{"label": "{point}"}}')
    approval = await pending(node, run_id)
    before = len(calls(node))
    node.kill(process)
    node.start(process, AGENTOS_CRASH_POINT=point)
    if process == "handlers":
        await node.handlers_up()
    deciding = asyncio.create_task(decided(node, run_id, approval, "approve"))
    await node.died(process)
    node.start(process)
    await deciding
    run = await node.finished(run_id, 60)
    made = len(calls(node)) - before
    if point == "executor.after_started":  # the intent was written: nobody knows of the call
        assert (run["status"], run["error"]["code"], made) == ("failed", "interrupted", 0)
    else:
        assert (run["status"], made) == ("completed", 1)
    await replays(node, run_id)


async def test_rejected_canceled_and_expired(node: MiniNode) -> None:
    before = len(calls(node))
    run_id = await a_run(node, f"call {ONCE} {{}}")
    approval = await pending(node, run_id)
    await decided(node, run_id, approval, "reject")
    run = await node.finished(run_id)
    assert run["status"] == "completed"
    assert "approval_rejected" in run["output"]["text"]
    await replays(node, run_id)
    run_id = await a_run(node, f"call {ONCE} {{}}")
    await pending(node, run_id)
    async with node.http.post(f"/v1/runs/{run_id}:cancel") as answer:
        assert (await answer.json())["run"]["status"] == "canceled"
    node.kill("executor")
    node.start("executor", AGENTOS_APPROVAL_TIMEOUT_S="1")
    run_id = await a_run(node, f"call {ONCE} {{}}")
    run = await node.finished(run_id, 60)
    assert run["status"] == "completed"
    assert "approval_expired" in run["output"]["text"]
    await replays(node, run_id)
    async with node.http.get(f"/v1/runs/{run_id}/approvals") as answer:
        (shown,) = (await answer.json())["approvals"]
    assert (shown["status"], shown["by"]) == ("expired", "svc_agentos")
    assert len(calls(node)) == before
