"""A remote run's events: live through the proxy, and copied into this node's own log."""

import asyncio
from typing import Any

import aiohttp

from agentos.domain.federation.remote import EventsCopied, GapFilled, GapFound, remote_ref
from agentos.domain.tenant.tenant import Profile
from agentos.infra.memory.log import MemoryLog
from tests.federation.fake_peer import RUN, FakePeer, event, final, frame
from tests.federation.node import FedNode, two_nodes
from tests.gateways.conftest import Reader, bearer, eventually, sequences

FAKE = {"stack_id": "stk_fake"}


def stream_of(*events: dict[str, Any]) -> Any:
    """Return what gives these events, behind the one that was asked for."""

    def give(after: int) -> list[bytes]:
        return [frame(e) for e in events if e["event"]["sequence"] > after]

    return give


async def read(
    node: FedNode, run_id: str, query: str = "", **headers: str
) -> tuple[int, list[Any]]:
    """Read a remote run's stream to its end; returns the status and the messages."""
    path = f"{node.federation}/v1/federation/runs/{run_id}/events{query}"
    async with (
        aiohttp.ClientSession() as http,
        http.get(path, headers=bearer() | headers) as answer,
    ):
        if answer.content_type != "text/event-stream":
            body = await answer.json() if answer.status != 204 else {}
            return answer.status, [body]
        return answer.status, await Reader(answer, timeout=15).rest()


async def types_of(node: FedNode, run_id: str = RUN) -> list[str]:
    """Return the types of what was written of a copy."""
    records = await MemoryLog.read(node.door.log, remote_ref("tnt_a", run_id))
    return [name for record in records for name in record.types]


async def test_live_and_resumed_through_the_proxy() -> None:
    async with two_nodes() as (a, b):
        _, body = await a.forward({"stack_id": "stk_b"})
        run_id = body["forwarded"]["remote_run_id"]
        path = f"{a.federation}/v1/federation/runs/{run_id}/events"
        async with aiohttp.ClientSession() as http, http.get(path, headers=bearer()) as answer:
            reader = Reader(answer)
            first = await reader.next()
            assert first is not None
            assert first.data["event"]["type"] == "agentos.run.created"
            await b.step(run_id)
            second = await reader.next()
            assert second is not None
            assert (second.id, second.event) == ("2", "agentos.event")
            await b.end(run_id)
            assert sequences(await reader.rest()) == [3]
        assert (await read(a, run_id, "?after_sequence=3"))[0] == 204
        _, found = await read(a, run_id, **{"Last-Event-ID": "1"})
        assert sequences(found) == [2, 3]
        _, found = await read(a, run_id, "?types=run.completed")
        assert sequences(found) == [3]
        forward_id = body["forwarded"]["forward_id"]
        _, found = await read(a, forward_id)
        assert sequences(found) == [1, 2, 3]
        assert (await read(a, run_id, "?after_sequence=x"))[0] == 400


async def test_the_frames_are_the_peers_byte_for_byte() -> None:
    async with two_nodes() as (a, b):
        _, body = await a.forward({"stack_id": "stk_b"}, text='a "quoted" \u2028 ü \n line')
        run_id = body["forwarded"]["remote_run_id"]
        await b.end_all()
        raw = []
        for url in (
            f"{a.federation}/v1/federation/runs/{run_id}/events",
            f"{b.door.urls[0]}/v1/runs/{run_id}/events",
        ):
            async with aiohttp.ClientSession() as http, http.get(url, headers=bearer()) as answer:
                raw.append(await answer.read())
        assert raw[0] == raw[1]
        await a.wait_copied(run_id, 3)
        assert await a.copied(run_id) == await b.lines(run_id)


async def test_when_the_peer_is_gone_the_copy_serves() -> None:
    async with two_nodes() as (a, b):
        _, body = await a.forward({"stack_id": "stk_b"})
        run_id = body["forwarded"]["remote_run_id"]
        await b.end_all()
        await a.wait_copied(run_id, 3)
        await b.door.close()
        try:
            status, found = await read(a, run_id)
            assert (status, sequences(found)) == (200, [1, 2, 3])
            assert (await read(a, run_id, "?after_sequence=3"))[0] == 204
            status, run = await a.call("GET", f"/v1/runs/{run_id}", door=0)
            assert (status, run["run"]["status"]) == (200, "completed")
        finally:
            await b.door.start()


async def test_a_peer_that_is_gone_before_anything_was_copied(
    node: FedNode, fake: FakePeer
) -> None:
    fake.streams = lambda after: (503, {})
    await node.forward(FAKE)
    status, found = await read(node, RUN)
    assert (status, found[0]["error"]["code"]) == (502, "events_proxy_failed")


async def test_an_unknown_run_and_another_tenants(node: FedNode) -> None:
    await node.door.change_tenant("tnt_b", "create", Profile(name="B"))
    await node.forward(FAKE)
    for run_id, headers in (("run_none", bearer()), (RUN, bearer(tenant_id="tnt_b"))):
        status, body = await node.call(
            "GET", f"/v1/federation/runs/{run_id}/events", headers=headers
        )
        assert (status, body["error"]["code"]) == (404, "not_found")
        status, body = await node.call(
            "POST", f"/v1/federation/runs/{run_id}:cancel", headers=headers
        )
        assert (status, body["error"]["code"]) == (404, "not_found")


async def test_a_stream_that_breaks_off_goes_on_behind_what_was_seen(
    node: FedNode, fake: FakePeer
) -> None:
    events = [event(1, "agentos.run.created"), *map(event, range(2, 6)), final(6)]

    def give(after: int) -> list[bytes]:
        left = [e for e in events if e["event"]["sequence"] > after]
        return [frame(left[0]), frame(left[1])[:40]] if len(left) > 1 else [frame(left[0])]

    fake.streams = give
    await node.forward(FAKE)
    _, found = await read(node, RUN)
    assert sequences(found) == [1, 2, 3, 4, 5, 6]
    await node.wait_copied(RUN, 6)
    notes = [name for name in await types_of(node) if name == GapFilled.TYPE]
    assert len(notes) >= 1
    assert (await node.remote(RUN)).gaps == []


async def test_repeats_are_dropped_and_what_was_skipped_is_fetched(
    node: FedNode, fake: FakePeer
) -> None:
    events = [event(1, "agentos.run.created"), *map(event, range(2, 6)), final(6)]
    fake.asked_after.clear()

    def give(after: int) -> list[bytes]:
        if len(fake.asked_after) <= 2:  # once for the proxy, once for the backhaul
            return [frame(events[0]), frame(events[0]), frame(events[1]), frame(events[4])]
        return [frame(e) for e in events if e["event"]["sequence"] > after]

    fake.streams = give
    await node.forward(FAKE)
    _, found = await read(node, RUN)
    assert sequences(found) == [1, 2, 3, 4, 5, 6]
    await node.wait_copied(RUN, 6)
    records = await MemoryLog.read(node.door.log, remote_ref("tnt_a", RUN))
    assert EventsCopied.TYPE in {name for r in records for name in r.types}
    assert len(await node.copied(RUN)) == 6


async def test_events_that_are_gone_for_ever_are_a_gap_with_its_numbers(
    node: FedNode, fake: FakePeer
) -> None:
    gone = {
        "error": {
            "code": "cursor_expired",
            "message": "gone",
            "retryable": False,
            "details": {"first_sequence": 4},
        }
    }

    def give(after: int) -> Any:
        return (410, gone) if after < 3 else [frame(event(4)), frame(final(5))]

    fake.streams = give
    await node.forward(FAKE)
    await node.wait_copied(RUN, 5)
    remote = await node.remote(RUN)
    assert [tuple(gap) for gap in remote.gaps] == [(1, 3)]
    assert len(await node.copied(RUN)) == 2
    assert remote.has_ended


async def test_a_run_that_the_peer_let_go_ends_its_copy_and_no_gap_is_silent(
    node: FedNode, fake: FakePeer
) -> None:
    gone = {
        "error": {
            "code": "cursor_expired",
            "message": "gone",
            "retryable": False,
            "details": {"first_sequence": 6, "status": "completed"},
        }
    }

    def give(after: int) -> Any:
        return (410, gone) if after >= 2 else [frame(event(n)) for n in (1, 2) if n > after]

    fake.streams = give
    await node.forward(FAKE)
    await node.wait_copied(RUN, 5)
    remote = await node.remote(RUN)
    assert remote.has_ended
    assert [tuple(gap) for gap in remote.gaps] == [(3, 5)]
    assert remote.view()["status"] == "completed"
    status, found = await read(node, RUN)
    assert status == 200
    assert sequences(found[:2]) == [1, 2]
    assert (found[2].event, found[2].data["error"]["code"]) == ("agentos.error", "cursor_expired")
    status, (answer,) = await read(node, RUN, "?after_sequence=2")
    assert (status, answer["error"]["code"]) == (410, "cursor_expired")
    assert (await read(node, RUN, "?after_sequence=5"))[0] == 204


LIES = [
    event(1, tenant_id="tnt_b"),
    event(1, run_id="run_other"),
    event(1, event_id=""),
    event(1, payload="x"),
    {"event": {"sequence": 1}},
]


def always(piece: bytes) -> Any:
    """Return what gives this piece, whatever it is asked for."""
    return lambda _: [piece]


async def test_a_peer_that_lies_is_not_believed(node: FedNode, fake: FakePeer) -> None:
    for lie in LIES:
        fake.streams = always(frame(lie, 1))
        fake.answers = [(201, {"run": {"run_id": RUN, "tenant_id": "tnt_a"}})]
        await node.forward(FAKE, key="k")
        async with asyncio.timeout(10):
            while GapFound.TYPE not in await types_of(node):  # noqa: ASYNC110 - a log has no event
                await asyncio.sleep(0.01)
        assert await node.copied(RUN) == []
        path = f"{node.federation}/v1/federation/runs/{RUN}/events"
        async with aiohttp.ClientSession() as http, http.get(path, headers=bearer()) as answer:
            got = b""
            try:
                async with asyncio.timeout(0.3):
                    got = await answer.content.read(1)
            except TimeoutError:
                pass
            assert got == b"", lie


async def test_pushes_fill_in_while_the_peer_cannot_be_asked(node: FedNode, fake: FakePeer) -> None:
    fake.streams = lambda after: (503, {})
    await node.forward(FAKE)
    events = [event(1, "agentos.run.created"), event(2), final(3)]
    body = {"ingest": {"source_stack_id": "stk_fake"}, "events": events}
    dev = {"X-Tenant-Id": "tnt_a", "X-Principal-Id": "svc_b", "X-Stack-Id": "stk_fake"}
    status, answer = await node.call(
        "POST",
        "/v1/federation/events:ingest",
        json=body,
        headers=dev | {"X-Scopes": "federation:peer"},
    )
    assert (status, answer["accepted"]) == (200, 3)
    await node.wait_copied(RUN, 3)
    assert (await node.remote(RUN)).has_ended
    assert "push" in str(await node.door.log.last(remote_ref("tnt_a", RUN)))


async def test_a_restart_goes_on_with_the_copies(node: FedNode, fake: FakePeer) -> None:
    fake.streams = stream_of(event(1, "agentos.run.created"), event(2))
    await node.forward(FAKE)
    await node.wait_copied(RUN, 2)
    await node.door.close()
    fake.streams = stream_of(event(1, "agentos.run.created"), event(2), event(3), final(4))
    log, ports, bus = node.door.log, node.door.ports, node.door.bus
    node.door = node._new_door()
    node.door.log, node.door.ports, node.door.bus = log, ports, bus
    await node.door.start()
    await node.wait_copied(RUN, 4)
    assert len(await node.copied(RUN)) == 4


async def test_cancel_goes_through() -> None:
    async with two_nodes() as (a, b):
        _, body = await a.forward({"stack_id": "stk_b"})
        run_id = body["forwarded"]["remote_run_id"]
        path = f"/v1/federation/runs/{run_id}:cancel"
        status, answer = await a.call("POST", path, json={"reason": "enough"})
        assert status == 200, answer
        assert answer["run"]["status"] == "canceled"
        assert answer["run"]["remote"]["stack_id"] == "stk_b"
        assert (await b.handled.run(run_id)).status == "canceled"
        status, answer = await a.call("POST", path)
        assert (status, answer["error"]["code"]) == (409, "invalid_state_transition")
        await a.wait_copied(run_id, 3)
        status, answer = await a.call("GET", f"/v1/runs/{run_id}", door=0)
        assert answer["run"]["status"] == "canceled"


async def test_a_cancel_whose_answer_was_lost_is_a_cancel(node: FedNode, fake: FakePeer) -> None:
    await node.forward(FAKE)
    ended = {
        "error": {
            "code": "invalid_state_transition",
            "message": "ended",
            "retryable": False,
            "details": {"status": "canceled"},
        }
    }
    fake.cancel_answers = ["cut", (409, ended)]
    status, body = await node.call("POST", f"/v1/federation/runs/{RUN}:cancel")
    assert (status, body["run"]["status"]) == (200, "canceled")
    fake.cancel_answers = ["cut"]
    status, body = await node.call("POST", f"/v1/federation/runs/{RUN}:cancel")
    assert (status, body["error"]["code"]) == (502, "forward_failed")


async def test_a_client_that_leaves_lets_the_peer_go(node: FedNode, fake: FakePeer) -> None:
    fake.streams = stream_of(event(1, "agentos.run.created"))
    await node.forward(FAKE)
    await node.wait_copied(RUN, 1)
    path = f"{node.federation}/v1/federation/runs/{RUN}/events"
    async with aiohttp.ClientSession() as http, http.get(path, headers=bearer()) as answer:
        await Reader(answer).next()
    await eventually(lambda: len(node.door.gateway.streams) == 0)
