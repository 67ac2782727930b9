"""The audit of a real node: recorded within a second, whole across kills, tampering found."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest_asyncio

from agentos.domain.audit.chain import chain_ref
from agentos.infra.jetstream.connection import bounded_close, connect
from agentos.infra.jetstream.log import JetStreamLog
from tests.journeys.mini_node import MiniNode, agentos

SCOPES = {"X-Scopes": "audit:read"}


@pytest_asyncio.fixture
async def node() -> AsyncIterator[MiniNode]:
    """A node with everything but a supervisor."""
    node = MiniNode()
    await node.open("gateway", "handlers", "executor", "projector", "auditor")
    await node.gateway_up()
    yield node
    await node.close()


async def records(node: MiniNode, query: str = "") -> list[dict[str, Any]]:
    """Return what GET /v1/audit says."""
    async with node.http.get(f"/v1/audit?limit=200{query}", headers=SCOPES) as answer:
        assert answer.status == 200, await answer.text()
        found: list[dict[str, Any]] = (await answer.json())["records"]
        return found


async def recorded(node: MiniNode, run_id: str, within: float) -> list[dict[str, Any]]:
    """Wait until a run's end is recorded; return the run's records."""
    async with asyncio.timeout(within):
        while True:
            found = await records(node, f"&run_id={run_id}")
            if any(r["action"] == "runs.end" for r in found):
                return found
            await asyncio.sleep(0.01)


async def test_what_happens_is_recorded_once_and_provably(node: MiniNode) -> None:
    _, body = await node.post_run("calculate 6 * 7")
    run_id = body["run"]["run_id"]
    await node.finished(run_id)
    found = await recorded(node, run_id, within=10)
    assert {"runs.create", "tools.invoke", "runs.end"} <= {r["action"] for r in found}
    assert "6 * 7" not in json.dumps(found)

    for point in ("auditor.before_append", "auditor.after_append"):
        node.kill("auditor")
        node.start("auditor", AGENTOS_CRASH_POINT=point)
        for _ in range(3):
            _, body = await node.post_run("hello")
            await node.finished(body["run"]["run_id"])
        await node.died("auditor")
        node.start("auditor")
        _, body = await node.post_run("and the next one records this")
        await recorded(node, body["run"]["run_id"], within=20)
    everything = await records(node)
    causes = [r["cause"] for r in everything]
    assert len(causes) == len(set(causes))
    for action in ("runs.create", "runs.end"):
        assert sum(r["action"] == action for r in everything) == 9

    # A clean stop signs what there is.
    node.processes["auditor"].terminate()
    assert await asyncio.to_thread(node.processes.pop("auditor").wait, 20) == 0
    code, said = await agentos(node, "audit", "verify", "--json")
    verdict = json.loads(said)
    assert (code, verdict["ok"], verdict["first_bad"]) == (0, True, None), said
    assert verdict["signed_to"] == verdict["records"] == len(everything)

    file = node.directory / "audit.ndjson"
    code, said = await agentos(node, "audit", "export", "-o", str(file))
    assert code == 0, said
    code, said = await agentos(node, "audit", "verify", str(file), "--json")
    assert (code, json.loads(said)["records"]) == (0, len(everything)), said
    proof = node.directory / "proof.json"
    code, said = await agentos(node, "audit", "proof", everything[3]["audit_id"], "-o", str(proof))
    assert code == 0, said
    assert (await agentos(node, "audit", "verify-proof", str(proof)))[0] == 0
    proof.write_text(proof.read_text().replace(run_id, "run_other").replace("allowed", "denied"))
    assert (await agentos(node, "audit", "verify-proof", str(proof)))[0] == 1

    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([*lines[:5], *lines[6:]]))
    code, said = await agentos(node, "audit", "verify", str(file), "--json")
    assert (code, json.loads(said)["first_bad"]["sequence"]) == (1, 6), said

    await _double_the_last_record(node)
    code, said = await agentos(node, "audit", "verify", "--json")
    assert (code, json.loads(said)["ok"]) == (1, False), said
    assert json.loads(said)["first_bad"]["sequence"] == len(everything) + 1


async def _double_the_last_record(node: MiniNode) -> None:
    """Write to the log behind everybody's back."""
    connection = await connect(node.nats.url, "intruder")
    try:
        log = JetStreamLog(connection)
        last = await log.last(chain_ref("tnt_demo"))
        assert last is not None
        await log.append(replace(last, commit_id="cmt_intruder"), expected=last.position)
    finally:
        await bounded_close(connection)
