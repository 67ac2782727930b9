"""The orchestrator's door answers for runs at peers as for its own: wait, events, cancel."""

import asyncio
from collections.abc import Mapping
from typing import Any

import aiohttp
import pytest

from agentos.domain.auth import AuthContext
from agentos.domain.errors import DependencyUnavailableError
from agentos.domain.federation.forward import Forward, forward_ref
from agentos.infra.memory.log import MemoryLog
from tests.federation.fake_peer import RUN, FakePeer, event, final, frame, run_of
from tests.federation.node import FedNode, two_nodes
from tests.gateways.conftest import Reader, bearer, eventually, sequences

FAKE = {"stack_id": "stk_fake"}
FINISHED = [event(1), final(2)]


async def read(node: FedNode, run_id: str, query: str = "", **headers: str) -> tuple[int, Any]:
    """Read a run's stream at the orchestrator's door; returns the status and the messages."""
    path = f"{node.door.urls[0]}/v1/runs/{run_id}/events{query}"
    async with (
        aiohttp.ClientSession() as http,
        http.get(path, headers=bearer() | headers) as answer,
    ):
        if answer.content_type != "text/event-stream":
            return answer.status, await answer.json() if answer.status != 204 else {}
        return answer.status, await Reader(answer, timeout=15).rest()


async def forwarded(node: FedNode, selector: dict[str, Any]) -> str:
    """Forward a run; returns its id over there."""
    status, body = await node.forward(selector)
    assert status == 200, body
    run_id: str = body["forwarded"]["remote_run_id"]
    return run_id


async def test_events_live_resumed_and_without_the_peer() -> None:
    async with two_nodes() as (a, b):
        run_id = await forwarded(a, {"stack_id": "stk_b"})
        following = asyncio.create_task(read(a, run_id))
        await b.step(run_id)
        await b.end(run_id)
        status, found = await following
        assert (status, sequences(found)) == (200, [1, 2, 3])
        assert sequences((await read(a, run_id, "?after_sequence=1"))[1]) == [2, 3]
        assert sequences((await read(a, run_id, "?types=run.completed"))[1]) == [3]
        assert (await read(a, run_id, "?after_sequence=3"))[0] == 204
        assert (await read(a, run_id, "?after_sequence=x"))[0] == 400
        await a.wait_copied(run_id, 3)
        await b.door.close()
        status, found = await read(a, run_id, **{"Last-Event-ID": "1"})
        assert (status, sequences(found)) == (200, [2, 3])


async def test_wait_ends_with_the_copy() -> None:
    async with two_nodes() as (a, b):
        run_id = await forwarded(a, {"stack_id": "stk_b"})
        status, body = await a.call("GET", f"/v1/runs/{run_id}/wait?timeout_ms=50", door=0)
        assert (status, body["run"]["status"]) == (200, "queued")
        waiting = asyncio.create_task(
            a.call("GET", f"/v1/runs/{run_id}/wait?timeout_ms=20000", door=0)
        )
        await b.step(run_id)
        await b.end(run_id)
        status, body = await waiting
        assert (status, body["run"]["status"]) == (200, "completed")
        assert body["run"]["remote"]["stack_id"] == "stk_b"
        status, again = await a.call("GET", f"/v1/runs/{run_id}/wait", door=0)
        assert (status, again["run"]) == (200, body["run"])


async def test_cancel_goes_where_the_run_is() -> None:
    async with two_nodes() as (a, b):
        run_id = await forwarded(a, {"stack_id": "stk_b"})
        path, key = f"/v1/runs/{run_id}:cancel", {"Idempotency-Key": "stop-1"}
        status, body = await a.call("POST", path, door=0, headers=bearer() | key)
        assert (status, body["run"]["status"]) == (200, "canceled")
        assert body["run"]["remote"]["run_id"] == run_id
        own = await b.call("GET", f"/v1/runs/{run_id}", door=0)
        assert own[1]["run"]["status"] == "canceled"
        status, _ = await a.call("POST", path, door=0, headers=bearer() | key)
        assert status == 200  # the same command
        status, body = await a.call("POST", path, door=0)
        assert (status, body["error"]["code"]) == (409, "invalid_state_transition")


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/wait?timeout_ms=10"), ("GET", "/events"), ("POST", ":cancel")],
)
async def test_scopes_tenants_and_unknown_runs(
    node: FedNode, fake: FakePeer, method: str, path: str
) -> None:
    fake.streams = lambda after: [frame(e) for e in FINISHED if e["event"]["sequence"] > after]
    run_id = await forwarded(node, FAKE)

    async def ask(run: str, **claims: Any) -> tuple[int, str]:
        headers = bearer(**claims)
        status, body = await node.call(method, f"/v1/runs/{run}{path}", door=0, headers=headers)
        return status, body["error"]["code"]

    assert await ask("run_01JD7K3V9YQ4M8R2T6W0X5Z1ZZ") == (404, "not_found")
    await node.handled.tenant("tnt_b")
    assert await ask(run_id, tenant_id="tnt_b") == (404, "not_found")
    assert await ask(run_id, scope="models:invoke", roles=None) == (403, "forbidden")
    status, body = await node.call(
        method,
        f"/v1/runs/{run_id}{path}",
        door=0,
        headers={
            "X-Tenant-Id": "tnt_a",
            "X-Principal-Id": "usr_a",
            "X-Scopes": "runs:forward",
            "X-Stack-Id": "stk_fake",
        },
    )
    assert (status, body["error"]["code"]) == (404, "not_found")  # it came through no peer
    assert not fake.canceled


async def test_a_body_that_narrows_the_scopes_is_heard(node: FedNode, fake: FakePeer) -> None:
    run_id = await forwarded(node, FAKE)
    narrow = {"auth": {"tenant_id": "tnt_a", "scopes": ["runs:read"]}}
    for door, prefix in ((0, "/v1/runs"), (2, "/v1/federation/runs")):
        status, body = await node.call("POST", f"{prefix}/{run_id}:cancel", door=door, json=narrow)
        assert (status, body["error"]["code"]) == (403, "forbidden")
    assert not fake.canceled


async def test_who_was_answered_finds_the_run_before_its_result_is_written(
    node: FedNode, fake: FakePeer
) -> None:
    """The answer does not wait for the result; whoever asks behind it does."""
    real, held = node.door.bus.handlers["forward.accept"], asyncio.Event()

    async def later(auth: AuthContext, command: Mapping[str, Any]) -> dict[str, Any]:
        await held.wait()
        answer: dict[str, Any] = await real(auth, command)
        return answer

    node.door.bus.handlers["forward.accept"] = later
    fake.streams = lambda after: [frame(e) for e in FINISHED if e["event"]["sequence"] > after]
    status, body = await node.forward(FAKE, key="k")
    assert status == 200, body
    forward_id = body["forwarded"]["forward_id"]
    ref = forward_ref("tnt_a", forward_id)
    assert Forward(ref).fold(await MemoryLog.read(node.door.log, ref)).accepted is None
    fake.answers = [(500, {})]  # the same key does not ask the peer again
    assert (await node.forward(FAKE, key="k"))[1]["forwarded"] == body["forwarded"]
    asking = [
        asyncio.create_task(node.call("GET", f"/v1/runs/{RUN}", door=0)),
        asyncio.create_task(node.call("POST", f"/v1/federation/runs/{forward_id}:cancel")),
        asyncio.create_task(read(node, RUN)),
    ]
    done, _ = await asyncio.wait(asking, timeout=0.3)
    assert not done
    held.set()
    (found, run), (canceled, _), (streamed, events) = await asyncio.gather(*asking)
    assert (found, canceled, streamed) == (200, 200, 200)
    assert run["run"]["remote"]["run_id"] == RUN
    assert sequences(events) == [1, 2]


async def test_a_result_that_could_not_be_written_is_written_by_the_same_key(
    node: FedNode, fake: FakePeer
) -> None:
    """The client has its answer, the handlers are gone: the intent is resumed."""
    real = node.door.bus.handlers["forward.accept"]
    broken: list[Mapping[str, Any]] = []

    async def fails(auth: AuthContext, command: Mapping[str, Any]) -> dict[str, Any]:
        if not broken:
            broken.append(command)
            raise DependencyUnavailableError("nobody listens", dependency="handlers")
        answer: dict[str, Any] = await real(auth, command)
        return answer

    node.door.bus.handlers["forward.accept"] = fails
    fake.answers = [(201, run_of()), (200, run_of(status="running"))]
    status, body = await node.forward(FAKE)
    assert (status, body["forwarded"]["status"]) == (200, "queued")
    await eventually(lambda: len(fake.created) == 2)
    async with asyncio.timeout(10):
        while not (await node.remote(RUN)).position:  # noqa: ASYNC110 - a log has no event
            await asyncio.sleep(0.02)
    assert len({sent["idempotency_key"] for sent in fake.created}) == 1
    ref = forward_ref("tnt_a", body["forwarded"]["forward_id"])
    async with asyncio.timeout(10):
        while True:
            accepted = Forward(ref).fold(await MemoryLog.read(node.door.log, ref)).accepted
            if accepted is not None:
                break
            await asyncio.sleep(0.02)
    assert (accepted.remote_run_id, accepted.status) == (RUN, "queued")
