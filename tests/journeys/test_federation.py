"""Three real nodes: forward, stream, cancel, read again; kill -9 and cut links in between."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.infra.telemetry.collector import Collector, Received
from tests.journeys.fed_nodes import FedMini, Three

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.slow,
    pytest.mark.timeout(240),
]
TO_B = {"stack_id": "stk_b"}
CUT_S = 60.0 if os.environ.get("BENCH") == "long" else 12.0


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def three() -> AsyncIterator[Three]:
    """The nodes."""
    opened = Three()
    await opened.begin()
    yield opened
    await opened.finish()


async def same_heads(a: FedMini, b: FedMini, run_id: str) -> list[dict[str, Any]]:
    """Check that A has every event of a run on B, byte for byte; returns them."""
    copied = await a.copied(run_id)
    own = await b.own_lines(run_id)
    assert copied == own
    events = [json.loads(line)["event"] for line in copied]
    assert [e["sequence"] for e in events] == list(range(1, len(events) + 1))
    assert len({e["event_id"] for e in events}) == len(events)
    return events


def with_key(runs: list[dict[str, Any]], label: str) -> list[str]:
    """Return the runs with a label."""
    return [run["run_id"] for run in runs if run.get("labels", {}).get("t") == label]


async def test_forward_stream_and_read_again(three: Three) -> None:
    a, b = three.a, three.b
    run_id = await a.forwarded(TO_B, "calculate 6 * 7", context={"labels": {"t": "first"}})
    seen = [(number, line) async for number, _, line in a.follow(run_id)]
    assert [number for number, _ in seen] == list(range(1, len(seen) + 1))
    assert [line for _, line in seen] == await b.own_lines(run_id)
    events = await same_heads(a, b, run_id)
    assert events[-1]["type"] == "agentos.run.completed"
    assert "42" in events[-1]["payload"]["output"]["text"]
    async with a.http.get(f"/v1/runs/{run_id}") as answer:
        run = (await answer.json())["run"]
    assert (run["status"], run["remote"]["stack_id"]) == ("completed", "stk_b")
    async with b.http.get(f"/v1/runs/{run_id}") as answer:
        own = (await answer.json())["run"]
    for name in ("status", "created_at", "started_at", "completed_at", "output", "summary"):
        assert run[name] == own[name], name
    async with asyncio.timeout(10):
        while with_key(await a.runs(), "first") != [run_id]:  # noqa: ASYNC110 - lists may lag
            await asyncio.sleep(0.1)


async def test_the_region_decides_and_the_trace_is_one(three: Three) -> None:
    trace = f"00-{'c' * 32}-{'d' * 16}-01"
    run = {"agent_id": "agt_demo", "input": {"type": "text", "text": "hello"}}
    body = {
        "forward": {"target_selector": {"region": "asia"}, "run_request": run, "traceparent": trace}
    }
    async with three.a.fed.post("/v1/federation/runs:forward", json=body) as answer:
        forwarded = (await answer.json())["forwarded"]
    assert forwarded["remote_stack_id"] == "stk_c"
    events = await same_heads(three.a, three.c, forwarded["remote_run_id"])
    assert {e["trace"]["traceparent"][3:35] for e in events} == {"c" * 32}


async def test_a_forwarded_run_is_one_trace_over_both_nodes(three: Three) -> None:
    trace_id, caller = "e" * 32, "d" * 16
    collector = Collector()
    await collector.open()
    nodes = (three.a, three.c)
    try:
        for node in nodes:
            node.start("tracer", AGENTOS_OTLP_ENDPOINT=collector.url)
        await asyncio.gather(*(tracing(node, collector) for node in nodes))
        run = {"agent_id": "agt_demo", "input": {"type": "text", "text": "calculate 6 * 7"}}
        trace = f"00-{trace_id}-{caller}-01"
        selector = {"region": "asia"}
        forward = {"target_selector": selector, "run_request": run, "traceparent": trace}
        async with three.a.fed.post(
            "/v1/federation/runs:forward", json={"forward": forward}
        ) as answer:
            run_id = (await answer.json())["forwarded"]["remote_run_id"]

        def ours(spans: list[Received]) -> dict[str, Received]:
            return {span.span_id: span for span in spans if span.trace_id == trace_id}

        await collector.until(lambda spans: len(ours(spans)) >= 7)
        spans = list(ours(collector.spans).values())
        (forwarded,) = [span for span in spans if span.name == "forward stk_c"]
        (agent,) = [span for span in spans if span.name.startswith("invoke_agent")]
        assert (forwarded.parent, agent.parent) == (caller, forwarded.span_id)
        assert forwarded.attributes["agentos.run.id"] == run_id
        assert agent.attributes["agentos.run.id"] == run_id
        steps = {s.span_id for s in spans if s.name.startswith(("step", "execute_tool"))}
        assert len(steps) == 3
        assert {s.parent for s in spans if s.name.startswith("chat")} <= steps
        stacks = {resource["service.instance.id"] for resource in collector.resources}
        assert stacks == {"stk_a", "stk_c"}
    finally:
        for node in nodes:
            node.kill("tracer")
        await collector.close()


async def tracing(node: FedMini, collector: Collector) -> None:
    """Wait until what happens on a node reaches the collector."""
    async with asyncio.timeout(60):
        while True:
            status, body = await node.post_run("hello")
            assert status == 201
            run_id = body["run"]["run_id"]

            def came(spans: list[Received], run_id: str = run_id) -> bool:
                return any(span.attributes.get("agentos.run.id") == run_id for span in spans)

            try:
                await collector.until(came, within=2.0)
            except AssertionError:
                continue
            return


async def test_cancel_goes_through(three: Three) -> None:
    a, b = three.a, three.b
    run_id = await a.forwarded(TO_B, "sleep 60000")
    async for _, _, line in a.follow(run_id):
        if b"agentos.run.started" in line:
            break
    async with a.fed.post(f"/v1/federation/runs/{run_id}:cancel", json={"reason": "x"}) as answer:
        body = await answer.json()
        assert (answer.status, body["run"]["status"]) == (200, "canceled")
    events = await same_heads(a, b, run_id)
    assert events[-1]["type"] == "agentos.run.canceled"


CRASHES = [
    ("a", "handlers", "federation.after_requested"),
    ("a", "gateway", "federation.after_intent"),
    ("a", "gateway", "federation.after_call"),
    ("a", "handlers", "federation.before_linked"),
    ("a", "handlers", "federation.after_linked"),
    ("a", "handlers", "federation.after_accepted"),
    ("a", "handlers", "federation.after_copied"),
    ("b", "handlers", "handlers.after_reserved"),
    ("b", "handlers", "handlers.after_created"),
]


@pytest.mark.parametrize(("who", "process", "point"), CRASHES)
async def test_kill_at_each_crash_point(three: Three, who: str, process: str, point: str) -> None:
    a, b = three.a, three.b
    dying: FedMini = getattr(three, who)
    await dying.again(process, AGENTOS_CRASH_POINT=point)
    more = {"idempotency_key": point, "context": {"labels": {"t": point}}}
    asking = asyncio.create_task(a.forward(TO_B, "sleep 300\ncalculate 6 * 7", **more))
    await dying.died(process)
    await dying.again(process)
    await asking
    run_id = await a.forwarded(TO_B, "sleep 300\ncalculate 6 * 7", **more)
    await same_heads(a, b, run_id)
    async with asyncio.timeout(10):
        while with_key(await b.runs(), point) != [run_id]:  # noqa: ASYNC110 - lists may lag
            await asyncio.sleep(0.1)
    assert await a.forwarded(TO_B, "sleep 300\ncalculate 6 * 7", **more) == run_id


async def test_the_node_finishes_by_itself_what_its_client_left(three: Three) -> None:
    a, b = three.a, three.b
    await a.again("gateway", AGENTOS_CRASH_POINT="federation.after_intent")
    labels = {"labels": {"t": "left"}}
    asking = asyncio.create_task(a.forward(TO_B, "hello", idempotency_key="left", context=labels))
    await a.died("gateway")
    await asking
    assert with_key(await b.runs(), "left") == []
    await a.again("gateway")
    async with asyncio.timeout(20):
        while not (found := with_key(await a.runs(), "left")):  # noqa: ASYNC110 - nobody asks
            await asyncio.sleep(0.1)
    await same_heads(a, b, found[0])
    assert await a.forwarded(TO_B, "hello", idempotency_key="left", context=labels) == found[0]


async def test_answered_and_dead_before_the_result_is_written(three: Three) -> None:
    """The answer goes out beside the result: when all of A dies in between, A finds it again."""
    a, b = three.a, three.b
    await a.again("handlers", AGENTOS_CRASH_POINT="federation.before_linked")
    status, body = await a.forward(TO_B, "hello", context={"labels": {"t": "answered"}})
    assert status == 200, body
    run_id = body["forwarded"]["remote_run_id"]
    await a.died("handlers")
    a.kill("gateway")
    assert (await a.copy(run_id))[0].view_state is None
    a.start("handlers")
    await a.again("gateway")
    await same_heads(a, b, run_id)
    async with asyncio.timeout(10):
        while with_key(await a.runs(), "answered") != [run_id]:  # noqa: ASYNC110 - lists may lag
            await asyncio.sleep(0.1)
    assert with_key(await b.runs(), "answered") == [run_id]


@pytest.mark.parametrize("how", ["cut", "half_open"])
async def test_a_cut_link_loses_nothing(three: Three, how: str) -> None:
    a, b = three.a, three.b
    link = three.link(a, b)
    text = f"sleep 500\nsleep {round(CUT_S * 500)}\ncalculate 6 * 7\nsleep {round(CUT_S * 700)}"
    run_id = await a.forwarded(TO_B, text, context={"labels": {"t": how}})
    seen: list[tuple[int, bytes]] = []

    async def watch() -> None:
        async for number, _, line in a.follow(run_id):
            seen.append((number, line))

    watching = asyncio.create_task(watch())
    async with asyncio.timeout(20):
        while len(seen) < 3:  # noqa: ASYNC110 - the watcher tells
            await asyncio.sleep(0.02)
    for proxy in link:
        getattr(proxy, how)()
    status, body = await a.forward(TO_B, "hello")
    assert (status, body["error"]["code"]) == (502, "forward_failed")
    await asyncio.sleep(CUT_S)
    for proxy in link:
        proxy.heal()
    async with asyncio.timeout(60):
        await watching
    own = await b.own_lines(run_id)
    assert [line for _, line in seen] == own
    assert [number for number, _ in seen] == list(range(1, len(own) + 1))
    await same_heads(a, b, run_id)
    async with asyncio.timeout(15):
        while not (notes := await _filled(a, run_id)):  # noqa: ASYNC110 - lists may lag
            await asyncio.sleep(0.2)
    assert notes[0]["cut_ms"] >= CUT_S * 500
    assert notes[0]["last"] <= len(own)


async def _filled(node: FedMini, run_id: str) -> list[dict[str, Any]]:
    found = await asyncio.to_thread(node.command, "peers", "status")
    copies = {p["stack_id"]: p.get("copies") for p in found["peers"]}["stk_b"]
    assert copies["gaps"] == []
    return [note for note in copies["filled"] if note["run_id"] == run_id]


async def test_the_whole_peer_dies_and_comes_back(three: Three) -> None:
    a, b = three.a, three.b
    run_id = await a.forwarded(TO_B, "sleep 2000\ncalculate 6 * 7")
    for name in ("gateway", "handlers", "executor", "projector"):
        b.kill(name)
    async with asyncio.timeout(20):
        while (await _states(a))["stk_b"] != "lost":  # noqa: ASYNC110 - polls are what is waited for
            await asyncio.sleep(0.2)
    for name in ("handlers", "executor", "projector", "gateway"):
        b.start(name)
    await b.gateway_up()
    events = await same_heads(a, b, run_id)
    assert events[-1]["type"] == "agentos.run.completed"
    # and without the peer, what was copied is read here
    b.kill("gateway")
    seen = [line async for _, _, line in a.follow(run_id)]
    assert seen == await b.own_lines(run_id)
    replayed = await asyncio.to_thread(a.command, "replay", "run", run_id, "--tenant", "tnt_demo")
    assert (replayed["equal"], replayed["events"]) == (True, len(seen))
    assert replayed["copied_from"] == "stk_b"
    await b.again("gateway")


@pytest.mark.parametrize("how", ["drop", "delay"])
async def test_a_bad_link_loses_nothing_and_doubles_nothing(three: Three, how: str) -> None:
    a, b = three.a, three.b
    link = three.link(a, b)
    steps = "\n".join(["sleep 400", "calculate 6 * 7"] * 5)
    run_id = await a.forwarded(TO_B, steps)
    for proxy in link:
        proxy.delay_s = 0.3 if how == "delay" else 0.0
    more = {"idempotency_key": f"bad-{how}", "context": {"labels": {"t": f"bad-{how}"}}}
    asking = asyncio.create_task(a.forwarded(TO_B, "hello", **more))
    for _ in range(15):
        if how == "drop":
            for proxy in link:
                proxy.drop()
        await asyncio.sleep(0.2)
    for proxy in link:
        proxy.delay_s = 0.0
    second = await asking
    assert await a.forwarded(TO_B, "hello", **more) == second
    await same_heads(a, b, run_id)
    await same_heads(a, b, second)
    async with asyncio.timeout(10):
        while with_key(await b.runs(), f"bad-{how}") != [second]:  # noqa: ASYNC110 - lists may lag
            await asyncio.sleep(0.1)


async def test_the_other_nodes_tenants_and_quotas_decide(three: Three) -> None:
    a, b = three.a, three.b
    admin = {"X-Principal-Id": "usr_root", "X-Scopes": "tenants:admin platform:admin"}

    async def make(node: FedMini, tenant_id: str, **more: Any) -> None:
        body = {"tenant_id": tenant_id, "name": tenant_id, **more}
        async with node.http.post("/v1/admin/tenants", json=body, headers=admin) as answer:
            assert answer.status == 201, await answer.text()

    async def refused(tenant_id: str) -> tuple[int, str, str]:
        run = {"agent_id": "agt_demo", "input": {"type": "text", "text": "hello"}}
        body = {"forward": {"target_selector": TO_B, "run_request": run}}
        headers = {"X-Tenant-Id": tenant_id}
        async with a.fed.post("/v1/federation/runs:forward", json=body, headers=headers) as answer:
            error = (await answer.json())["error"]
            return answer.status, error["code"], error["details"]["stack_id"]

    await make(a, "tnt_unknown")
    assert await refused("tnt_unknown") == (403, "tenant_unknown", "stk_b")
    await make(a, "tnt_off")
    await make(b, "tnt_off")
    async with b.http.post("/v1/admin/tenants/tnt_off:disable", headers=admin) as answer:
        assert answer.status == 200, await answer.text()
    assert await refused("tnt_off") == (403, "tenant_disabled", "stk_b")
    await make(a, "tnt_small")
    none = {"runs": {"max_concurrent_runs": 0}}
    await make(b, "tnt_small", quotas=none)
    agent = {"agent_id": "agt_demo", "name": "Demo", "model_ref": "builtin/scripted"}
    writes = {"X-Tenant-Id": "tnt_small", "X-Scopes": "agents:write"}
    async with b.http.post("/v1/agents", json=agent, headers=writes) as answer:
        assert answer.status == 201, await answer.text()
    assert await refused("tnt_small") == (429, "quota_exceeded", "stk_b")


async def _states(node: FedMini) -> dict[str, str]:
    found = await asyncio.to_thread(node.command, "peers", "list")
    return {peer["stack_id"]: peer["state"] for peer in found["peers"]}
