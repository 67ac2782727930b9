"""A run is forwarded: where to, under which key, what its caller hears. Nothing is made twice."""

import asyncio
import json
from typing import Any

import pytest
from pydantic import ValidationError

from agentos.domain.envelope import read_line
from agentos.domain.federation.forward import Forward, forward_ref
from agentos.domain.federation.peer import PeerEntry
from agentos.federation.forwarding import Forwarder
from agentos.handlers.commands import FailForward
from agentos.infra.memory.log import MemoryLog
from tests.federation.fake_peer import RUN, FakePeer, run_of
from tests.federation.node import FedNode, two_nodes
from tests.gateways.conftest import bearer, eventually

FAKE = {"stack_id": "stk_fake"}
REFUSAL: dict[str, Any] = {"message": "no", "retryable": False, "details": {}}


def refusal(code: str, **more: Any) -> dict[str, Any]:
    """Return an error body."""
    return {"error": {"code": code, **REFUSAL, **more}}


async def stored(node: FedNode, forward_id: str) -> Forward:
    """Return a forward as the log has it."""
    ref = forward_ref("tnt_a", forward_id)
    return Forward(ref).fold(await MemoryLog.read(node.door.log, ref))


def forwarder(node: FedNode) -> Forwarder:
    """Return what makes a node's forwards."""
    federation = node.door.gateway._federation
    assert federation is not None
    return federation.forwarder


async def test_a_run_is_forwarded_and_comes_back() -> None:
    async with two_nodes() as (a, b):
        status, body = await a.forward({"stack_id": "stk_b"})
        assert status == 200, body
        forwarded = body["forwarded"]
        run_id = forwarded["remote_run_id"]
        assert (forwarded["tenant_id"], forwarded["remote_stack_id"]) == ("tnt_a", "stk_b")
        assert forwarded["remote_events_url"] == f"{b.door.urls[0]}/v1/runs/{run_id}/events"
        assert forwarded["status"] == "queued"
        assert (await a.runs(), await b.runs()) == ([], [run_id])
        await b.step(run_id)
        await b.end(run_id)
        await a.wait_copied(run_id, 3)
        assert await a.copied(run_id) == await b.lines(run_id)
        status, body = await a.call("GET", f"/v1/runs/{run_id}", door=0)
        assert (status, body["run"]["status"]) == (200, "completed")
        assert body["run"]["remote"]["stack_id"] == "stk_b"
        assert body["run"]["output"] == {"type": "text", "text": "done"}


async def test_the_same_key_is_the_same_forward() -> None:
    async with two_nodes() as (a, b):
        first = await a.forward({"stack_id": "stk_b"}, key="order-1")
        again = await asyncio.gather(*(a.forward({}, key="order-1") for _ in range(5)))
        await b.end_all()
        late = await a.forward({"stack_id": "stk_b"}, key="order-1")
        for status, body in (*again, late):
            assert (status, body["forwarded"]) == (200, first[1]["forwarded"])
        assert len(await b.runs()) == 1
        status, body = await a.forward({"stack_id": "stk_b"}, key="order-1", text="other")
        assert (status, body["error"]["code"]) == (409, "conflict")
        other = {"stack_id": "stk_a"}
        status, body = await a.forward(other, key="order-1")
        assert (status, body["error"]["code"]) == (409, "conflict")


async def test_many_at_once_with_one_key_are_one_run() -> None:
    async with two_nodes() as (a, b):
        found = await asyncio.gather(
            *(a.forward({"stack_id": "stk_b"}, key="k") for _ in range(20))
        )
        assert {status for status, _ in found} == {200}
        assert len({body["forwarded"]["remote_run_id"] for _, body in found}) == 1
        assert len(await b.runs()) == 1


async def test_a_key_of_a_peers_principal_is_another_than_a_local_one() -> None:
    async with two_nodes() as (a, b):
        _, body = await a.forward({"stack_id": "stk_b"}, key="k")
        run = {"input": {"type": "text", "text": "hi"}, "idempotency_key": "k"}
        status, local = await b.call("POST", "/v1/agents/agt_a/runs", door=0, json=run)
        assert status == 201
        assert local["run"]["run_id"] != body["forwarded"]["remote_run_id"]


async def test_without_a_key_each_forward_is_its_own(node: FedNode, fake: FakePeer) -> None:
    await node.forward(FAKE)
    fake.answers = [(201, run_of("run_2"))]
    await node.forward(FAKE)
    keys = [body["idempotency_key"] for body in fake.created]
    assert len(set(keys)) == 2
    assert all(key.startswith("fwd_") for key in keys)


async def test_dev_headers_carry_the_identity_and_no_token(node: FedNode, fake: FakePeer) -> None:
    status, _ = await node.forward(FAKE)
    assert status == 200
    sent = fake.headers[0]
    assert (sent["X-Tenant-Id"], sent["X-Principal-Id"]) == ("tnt_a", "usr_a")
    assert sent["X-Stack-Id"] == "stk_a"
    assert "runs:forward" in sent["X-Scopes"]
    assert "Authorization" not in sent


async def test_one_trace_from_end_to_end(node: FedNode, fake: FakePeer) -> None:
    trace = f"00-{'a' * 32}-{'b' * 16}-01"
    run = {"agent_id": "agt_a", "input": {"type": "text", "text": "hi"}}
    forward = {"target_selector": FAKE, "run_request": run, "traceparent": trace}
    status, body = await node.call("POST", "/v1/federation/runs:forward", json={"forward": forward})
    assert status == 200
    sent = fake.headers[0]["traceparent"]
    assert sent[:36] == trace[:36]
    assert sent[36:52] != trace[36:52]  # the forward is a span of its own
    assert fake.headers[0]["X-Correlation-Id"] == body["correlation_id"]
    found = await stored(node, body["forwarded"]["forward_id"])
    assert found.traceparent == sent
    assert found.requested.parent_span_id == trace[36:52]


@pytest.mark.parametrize("answer", ["cut", (503, {}), (429, refusal("rate_limited")), (500, b"x")])
async def test_what_may_pass_is_tried_again_with_the_same_key(
    node: FedNode, fake: FakePeer, answer: Any
) -> None:
    fake.answers = [answer, answer, (200, run_of(status="running"))]
    status, body = await node.forward(FAKE, key="k")
    assert status == 200
    assert body["forwarded"]["status"] == "queued"  # what the receiver first answered
    assert [sent["idempotency_key"] for sent in fake.created] == ["k", "k", "k"]


async def test_a_peer_that_is_down_is_502_and_the_key_tries_again(
    node: FedNode, fake: FakePeer
) -> None:
    fake.answers = [(503, {})]
    status, body = await node.forward(FAKE, key="k")
    assert (status, body["error"]["code"], body["error"]["retryable"]) == (
        502,
        "forward_failed",
        True,
    )
    assert body["error"]["details"]["stack_id"] == "stk_fake"
    assert len(fake.created) == 3
    fake.answers = [(201, run_of())]
    status, body = await node.forward(FAKE, key="k")
    assert (status, body["forwarded"]["remote_run_id"]) == (200, RUN)
    assert {sent["idempotency_key"] for sent in fake.created} == {"k"}
    found = await stored(node, body["forwarded"]["forward_id"])
    assert (found.status, found.requested.attempt) == ("accepted", 2)


async def test_a_peer_that_does_not_answer_is_not_waited_for_for_ever(
    node: FedNode, fake: FakePeer
) -> None:
    fake.answers = ["hang"]
    async with asyncio.timeout(15):
        status, body = await node.forward(FAKE)
    assert (status, body["error"]["code"]) == (502, "forward_failed")


PASSED_ON = [
    (403, "tenant_unknown"),
    (403, "tenant_disabled"),
    (404, "not_found"),
    (409, "conflict"),
    (400, "invalid_request"),
]


@pytest.mark.parametrize(("status", "code"), PASSED_ON)
async def test_what_the_peer_refuses_for_the_callers_sake_is_passed_on_at_once(
    node: FedNode, fake: FakePeer, status: int, code: str
) -> None:
    fake.answers = [(status, refusal(code))]
    got, body = await node.forward(FAKE, key="k")
    assert (got, body["error"]["code"]) == (status, code)
    assert body["error"]["details"]["stack_id"] == "stk_fake"
    assert len(fake.created) == 1


async def test_a_quota_that_is_spent_over_there_is_not_asked_for_again(
    node: FedNode, fake: FakePeer
) -> None:
    headers = {"x-should-retry": "false"}
    fake.answers = [(429, refusal("quota_exceeded") | {"headers": headers})]
    status, body = await node.forward(FAKE)
    assert (status, body["error"]["code"]) == (429, "quota_exceeded")
    assert len(fake.created) == 1


async def test_a_peer_that_refuses_this_node_is_no_fault_of_the_caller(
    node: FedNode, fake: FakePeer
) -> None:
    fake.answers = [(403, refusal("forbidden"))]
    status, body = await node.forward(FAKE)
    assert (status, body["error"]["code"]) == (502, "forward_failed")
    assert body["error"]["details"]["peer_error"]["code"] == "forbidden"


LIES: list[Any] = [
    run_of(tenant_id="tnt_b"),
    run_of(agent_id="agt_other"),
    run_of("not an id"),
    {"run": 5},
    {},
    [],
    b"<html>",
]


@pytest.mark.parametrize("lie", LIES)
async def test_a_run_that_is_not_the_one_that_was_asked_for(
    node: FedNode, fake: FakePeer, lie: Any
) -> None:
    fake.answers = [(201, lie)]
    status, body = await node.forward(FAKE)
    assert (status, body["error"]["code"], body["error"]["retryable"]) == (
        502,
        "forward_failed",
        False,
    )


async def test_an_events_url_at_another_host_is_not_taken_over(
    node: FedNode, fake: FakePeer, fake_entry: PeerEntry
) -> None:
    fake.answers = [(201, run_of(events_url="http://elsewhere.example/steal"))]
    _, body = await node.forward(FAKE)
    expected = f"{fake_entry.endpoints.orchestrator}/v1/runs/{RUN}/events"
    assert body["forwarded"]["remote_events_url"] == expected


async def test_no_such_peer_is_404_with_its_id(node: FedNode) -> None:
    status, body = await node.forward({"stack_id": "stk_nobody"})
    assert (status, body["error"]["code"]) == (404, "not_found")
    assert body["error"]["details"]["stack_id"] == "stk_nobody"


async def test_a_selector_that_matches_nothing(node: FedNode) -> None:
    status, body = await node.forward({"region": "mars"})
    assert (status, body["error"]["code"]) == (409, "conflict")
    assert body["error"]["details"]["missing"] == ["region mars"]


async def test_what_a_named_peer_lacks_is_said(node: FedNode, fake: FakePeer) -> None:
    fake.capabilities = {"supports": {"runs_forward": True}, "features": [], "protocol": "1.0"}
    selector = FAKE | {"required_capabilities": ["events.ingest", "runs.forward"]}
    status, body = await node.forward(selector)
    assert (status, body["error"]["code"]) == (409, "conflict")
    assert body["error"]["details"]["missing"] == ["events.ingest"]
    assert not fake.created


async def test_a_peer_of_another_protocol_is_no_target(node: FedNode, fake: FakePeer) -> None:
    fake.capabilities = {"supports": {"runs_forward": True}, "protocol": "2.0"}
    status, body = await node.forward(FAKE)
    assert (status, body["error"]["code"]) == (409, "conflict")
    assert body["error"]["details"]["missing"] == ["protocol 2.0"]


async def test_a_selector_that_fits_this_node_runs_here(node: FedNode) -> None:
    for selector in ({"stack_id": "stk_a"}, {"region": "local"}, {}):
        status, body = await node.forward(selector)
        assert (status, body["forwarded"]["remote_stack_id"]) == (200, "stk_a")
        run_id = body["forwarded"]["remote_run_id"]
        assert run_id in await node.runs()
        events_url = body["forwarded"]["remote_events_url"]
        assert events_url == f"{node.door.urls[0]}/v1/runs/{run_id}/events"


async def test_a_forwarded_run_is_not_forwarded_again() -> None:
    async with two_nodes() as (a, b):
        through = {
            "X-Tenant-Id": "tnt_a",
            "X-Principal-Id": "usr_a",
            "X-Scopes": "runs:forward",
            "X-Stack-Id": "stk_a",
        }
        status, body = await b.forward({"stack_id": "stk_a"}, headers=through)
        assert (status, body["error"]["code"]) == (409, "conflict")
        status, body = await b.forward({"stack_id": "stk_b"}, headers=through)
        assert (status, body["forwarded"]["remote_stack_id"]) == (200, "stk_b")
        assert await a.runs() == []


async def test_the_run_of_another_forward_is_no_answer(node: FedNode) -> None:
    assert (await node.forward(FAKE))[0] == 200
    status, body = await node.forward(FAKE)
    assert (status, body["error"]["code"], body["error"]["retryable"]) == (
        502,
        "forward_failed",
        False,
    )


async def test_the_scopes_and_the_tenant_of_the_caller_count(node: FedNode, fake: FakePeer) -> None:
    for scope, expected in (("runs:create", 200), ("runs:forward", 200), ("runs:read", 403)):
        fake.answers = [(201, run_of(f"run_{expected}_{len(scope)}"))]
        status, _ = await node.forward(FAKE, headers=bearer(scope=scope, roles=None))
        assert status == expected, scope
    body = {
        "target_selector": FAKE,
        "run_request": {"agent_id": "agt_a", "input": {"type": "text", "text": "x"}},
        "auth": {"tenant_id": "tnt_b"},
    }
    status, answer = await node.call("POST", "/v1/federation/runs:forward", json={"forward": body})
    assert (status, answer["error"]["code"]) == (400, "tenant_mismatch")


BAD: list[Any] = [
    {},
    {"forward": 5},
    {"forward": {"target_selector": {}}},
    {"forward": {"target_selector": {"stack_id": "x"}, "run_request": {}}},
    {"forward": {"target_selector": [], "run_request": {"agent_id": "agt_a"}}},
    {
        "forward": {
            "target_selector": {"required_capabilities": "x"},
            "run_request": {"agent_id": "agt_a", "input": {"type": "text", "text": "x"}},
        }
    },
    {
        "forward": {
            "target_selector": {},
            "traceparent": "nonsense",
            "run_request": {"agent_id": "agt_a", "input": {"type": "text", "text": "x"}},
        }
    },
    {
        "forward": {
            "target_selector": {"preferred_model_tier": "best"},
            "run_request": {"agent_id": "../x", "input": {"type": "text", "text": "x"}},
        }
    },
]


@pytest.mark.parametrize("body", BAD)
async def test_bodies_that_do_not_fit(node: FedNode, body: Any) -> None:
    status, answer = await node.call("POST", "/v1/federation/runs:forward", json=body)
    assert (status, answer["error"]["code"]) == (400, "invalid_request")


async def test_the_next_process_finishes_what_one_began(node: FedNode, fake: FakePeer) -> None:
    """The intent is in the log, the peer has the run, and the answer was never written."""
    real = node.door.bus.handlers["forward.accept"]

    async def dies(*_: Any) -> dict[str, Any]:
        await asyncio.Event().wait()
        return {}

    node.door.bus.handlers["forward.accept"] = dies
    asking = asyncio.create_task(node.forward(FAKE, key="k"))
    await eventually(lambda: fake.created)
    fake.answers = [(200, run_of(status="running"))]
    node.door.bus.handlers["forward.accept"] = real
    await node.restart()
    await asyncio.gather(asking, return_exceptions=True)
    async with asyncio.timeout(10):
        while not (await node.remote(RUN)).position:  # noqa: ASYNC110 - a log has no event
            await asyncio.sleep(0.02)
    assert {sent["idempotency_key"] for sent in fake.created} == {"k"}
    status, body = await node.forward(FAKE, key="k")
    assert (status, body["forwarded"]["remote_run_id"]) == (200, RUN)


async def reread(node: FedNode, forward_id: str) -> list[dict[str, Any]]:
    """Return a forward's events, each read back from its line."""
    records = await MemoryLog.read(node.door.log, forward_ref("tnt_a", forward_id))
    return [read_line(line) for record in records for line in record.lines()]


async def failed_once(node: FedNode) -> str:
    """Return the id of the one forward that the log has."""
    last = await node.door.log.last_of_kind("federation", "tnt_a")
    return last[-1].ref.aggregate_id


def nested(levels: int) -> Any:
    """Return an object in an object in an object."""
    found: Any = "x"
    for _ in range(levels):
        found = {"a": found}
    return found


HOSTILE: list[dict[str, Any]] = [
    nested(220),
    {f"k{at}": at for at in range(100_000)},
    {"k": "x" * 2_000_000},
    {"message": "m", "self": 1, "stack_id": "stk_evil", "retryable": {"a": 1}},
    {"nul": "\x00", "\x00": 1, "deep": nested(60), "why": "kept"},
]


@pytest.mark.parametrize("details", HOSTILE)
async def test_what_a_refusal_carries_is_bounded_before_it_is_written(
    node: FedNode, fake: FakePeer, details: dict[str, Any]
) -> None:
    message = "no\x00" * 10_000
    fake.answers = [(409, refusal("conflict", details=details, message=message))]
    status, body = await node.forward(FAKE, key="k")
    assert (status, body["error"]["code"], body["error"]["retryable"]) == (409, "conflict", False)
    assert body["error"]["details"]["stack_id"] == "stk_fake"
    events = await reread(node, await failed_once(node))
    kept = events[-1]["payload"]["error"]
    assert events[-1]["type"] == "agentos.federation.forward.failed"
    assert len(json.dumps(kept)) < 10_000
    assert "\x00" not in json.dumps(kept, ensure_ascii=False)
    assert kept["details"].get("why") == details.get("why")


@pytest.mark.parametrize("error", [5, [], {"code": [1], "message": {}}, {"code": "x" * 10**6}])
async def test_a_refusal_that_is_no_error_object(node: FedNode, fake: FakePeer, error: Any) -> None:
    fake.answers = [(403, {"error": error})]
    status, body = await node.forward(FAKE)
    assert (status, body["error"]["code"]) == (502, "forward_failed")
    assert len(json.dumps(body)) < 1_000


async def test_what_a_run_carries_is_bounded_before_it_is_written(
    node: FedNode, fake: FakePeer, fake_entry: PeerEntry
) -> None:
    fake.answers = [
        (201, run_of(status="a\x00b", created_at="x" * 100, events_url="/v1/\x00/" + "x" * 5000))
    ]
    status, body = await node.forward(FAKE)
    expected = f"{fake_entry.endpoints.orchestrator}/v1/runs/{RUN}/events"
    assert (status, body["forwarded"]["status"]) == (200, "queued")
    assert body["forwarded"]["remote_events_url"] == expected
    await eventually(lambda: not len(forwarder(node).unfinished))
    assert (await stored(node, body["forwarded"]["forward_id"])).status == "accepted"


def test_a_failure_that_no_line_can_hold_is_refused() -> None:
    command = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01", "forward_id": "fwd_1"}
    error = {"code": "conflict", "message": "no", "details": nested(220)}
    with pytest.raises(ValidationError):
        FailForward.model_validate({**command, "error": error})
