"""Event streams: past and live without gap or repeat, resume, filters, slow clients."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import aiohttp
import orjson
import pytest

from agentos.domain.errors import ConflictError, DependencyUnavailableError
from agentos.domain.log import void_commit
from agentos.domain.run.run import run_ref
from agentos.domain.subjects import delta
from agentos.gateways.http.sse import StreamLimits
from agentos.gateways.http.tail import FinalWaiter, Framed
from tests.gateways.conftest import (
    AGENT,
    TENANT,
    Door,
    Message,
    Reader,
    bearer,
    eventually,
    sequences,
)

SMALL = StreamLimits(
    max_items=64,
    max_bytes=256 * 1024,
    kernel_bytes=8 * 1024,
    keepalive_s=0.05,
    write_timeout_s=0.3,
    sweep_s=0.02,
)


@pytest.fixture
async def small() -> AsyncIterator[Door]:
    """A door with small limits and short times."""
    opened = Door(limits=SMALL)
    await opened.start()
    yield opened
    await opened.close()


@contextlib.asynccontextmanager
async def streaming(door: Door, path: str, **headers: str) -> AsyncIterator[Reader]:
    sent = {**bearer(), **headers}
    async with door.client.get(path, headers=sent) as response:
        assert response.status == 200, await response.text()
        yield Reader(response)


async def until_open(door: Door, count: int) -> None:
    """Wait until `count` streams are open and live."""
    streams = door.gateway.streams
    await eventually(lambda: len(streams) == count and all(s.live for s in streams._open))


async def test_the_past_then_live_then_the_end(door: Door) -> None:
    script = door.script().stage_created().stage_steps(2)
    await script.write()
    async with streaming(door, f"/v1/runs/{script.run_id}/events") as reader:
        assert reader.response.headers["Content-Type"] == "text/event-stream"
        assert reader.response.headers["X-Tenant-Id"] == TENANT
        first = [await reader.next() for _ in range(3)]
        await script.stage_steps(1).write()
        await script.stage_steps(1).stage_end().write()
        rest = await reader.rest()
    messages = [m for m in first if m is not None] + rest
    assert sequences(messages) == [1, 2, 3, 4, 5, 6]
    assert [m.id for m in messages] == ["1", "2", "3", "4", "5", "6"]
    assert {m.event for m in messages} == {"agentos.event"}


async def test_the_log_s_bytes_are_shown_untouched(door: Door) -> None:
    script = await door.finished(steps=3)
    async with streaming(door, f"/v1/runs/{script.run_id}/events") as reader:
        await reader.rest()
    (record,) = await door.log.read(script.run.ref)
    shown = [part.split(b"data: ", 1)[1] for part in reader.raw.split(b"\n\n") if part]
    assert shown == record.lines()


@pytest.mark.parametrize(
    ("query", "headers", "expected"),
    [
        ("", {}, [1, 2, 3, 4, 5]),
        ("?after_sequence=0", {}, [1, 2, 3, 4, 5]),
        ("?after_sequence=2", {}, [3, 4, 5]),
        ("?from_sequence=4", {}, [5]),
        ("", {"Last-Event-ID": "3"}, [4, 5]),
        ("?after_sequence=1", {"Last-Event-ID": "3"}, [2, 3, 4, 5]),
    ],
)
async def test_resume_is_exclusive_and_inside_a_message(
    door: Door, query: str, headers: dict[str, str], expected: list[int]
) -> None:
    script = await door.finished(steps=3)
    async with streaming(door, f"/v1/runs/{script.run_id}/events{query}", **headers) as reader:
        assert sequences(await reader.rest()) == expected


@pytest.mark.parametrize("cursor", [3, 4, 1000, 2**63 - 1])
async def test_204_at_or_behind_the_end_of_a_finished_run(door: Door, cursor: int) -> None:
    script = await door.finished(steps=1)
    path = f"/v1/runs/{script.run_id}/events?after_sequence={cursor}"
    async with door.client.get(path, headers=bearer()) as response:
        assert response.status == 204
        assert await response.read() == b""


@pytest.mark.parametrize("cursor", ["-1", "x", "1.5", "", "9223372036854775808", "1" * 400])
async def test_a_cursor_that_is_no_number(door: Door, cursor: str) -> None:
    script = await door.finished()
    path = f"/v1/runs/{script.run_id}/events"
    for query in (f"?after_sequence={cursor}", f"?from_sequence={cursor}"):
        status, body, _ = await door.call("GET", path + query)
        assert (status, body["error"]["code"]) == (400, "invalid_request")
    status, _, _ = await door.call("GET", path, headers={**bearer(), "Last-Event-ID": cursor})
    assert status == 400


async def test_a_cursor_beyond_the_end_of_a_live_run_waits(door: Door) -> None:
    script = door.script().stage_created()
    await script.write()
    async with streaming(door, f"/v1/runs/{script.run_id}/events?after_sequence=3") as reader:
        await until_open(door, 1)
        await script.stage_steps(1).write()
        await script.stage_steps(2).write()
        await script.stage_end().write()
        assert sequences(await reader.rest()) == [4, 5]


@pytest.mark.parametrize(
    ("types", "expected"),
    [
        ("run.created", [1]),
        ("agentos.run.started,run.completed", [2, 3, 4]),
        ("agentos.run.canceled", []),
        (" , ", [1, 2, 3, 4]),
    ],
)
async def test_types_filter_and_the_stream_ends_all_the_same(
    door: Door, types: str, expected: list[int]
) -> None:
    script = door.script().stage_created()
    await script.write()
    async with streaming(door, f"/v1/runs/{script.run_id}/events?types={types}") as reader:
        await until_open(door, 1)
        await script.stage_steps(2).stage_end().write()
        assert sequences(await reader.rest()) == expected


async def test_an_unknown_type_and_an_unknown_run(door: Door) -> None:
    script = await door.finished()
    status, body, _ = await door.call("GET", f"/v1/runs/{script.run_id}/events?types=run.creatd")
    assert (status, body["error"]["code"]) == (400, "invalid_request")
    status, body, _ = await door.call("GET", "/v1/runs/run_none/events")
    assert (status, body["error"]["code"]) == (404, "not_found")


async def test_another_tenant_s_run_and_a_closed_subject_are_not_found(door: Door) -> None:
    script = await door.finished()
    other = bearer(tenant_id="tnt_b")
    for path in ("", "/events", "/wait?timeout_ms=0"):
        status, _, _ = await door.call("GET", f"/v1/runs/{script.run_id}{path}", headers=other)
        assert status == 404
    await door.log.append(void_commit(run_ref(TENANT, "run_void"), door.new_id), expected=0)
    for path in ("", "/events", "/wait?timeout_ms=0"):
        status, _, _ = await door.call("GET", f"/v1/runs/run_void{path}")
        assert status == 404


async def test_doubles_are_dropped_and_gaps_are_read_again(door: Door) -> None:
    script = door.script().stage_created()
    await script.write()
    async with streaming(door, f"/v1/runs/{script.run_id}/events") as reader:
        await until_open(door, 1)
        listeners = door.gateway.tail._aggregates.pop(script.run.ref)
        await script.stage_steps(1).write()
        await script.stage_steps(1).write()
        records = await door.log.read(script.run.ref)
        (stream,) = listeners
        for record in (records[0], records[2], records[1], records[2]):
            stream.offer(Framed(record))
        door.gateway.tail._aggregates[script.run.ref] = listeners
        await script.stage_end().write()
        assert sequences(await reader.rest()) == [1, 2, 3, 4]


async def test_the_beginning_that_is_gone_is_410(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = door.script().stage_created()
    await script.write()
    await script.stage_steps(2).stage_end().write()
    kept = (await door.log.read(script.run.ref))[1:]

    async def read(*_: object, **__: object) -> object:
        return kept

    monkeypatch.setattr(door.log, "read", read)
    status, body, _ = await door.call("GET", f"/v1/runs/{script.run_id}/events")
    assert (status, body["error"]["code"]) == (410, "cursor_expired")
    assert body["error"]["details"] == {"first_sequence": 2}
    async with streaming(door, f"/v1/runs/{script.run_id}/events?after_sequence=1") as reader:
        assert sequences(await reader.rest()) == [2, 3, 4]


async def test_keepalives_are_comments(small: Door) -> None:
    script = small.script().stage_created()
    await script.write()
    async with streaming(small, f"/v1/runs/{script.run_id}/events") as reader:
        await reader.next()
        async with asyncio.timeout(5):
            lines = [await reader.response.content.readline() for _ in range(4)]
        assert lines == [b": keepalive\n", b"\n", b": keepalive\n", b"\n"]
        await script.stage_end().write()
        assert sequences(await reader.rest()) == [2]


async def _stalled(door: Door, run_id: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a stream whose client reads nothing until told to."""
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port, limit=1024)
    head = f"GET /v1/runs/{run_id}/events HTTP/1.1\r\nHost: x\r\n"
    writer.write(head.encode() + f"Authorization: {bearer()['Authorization']}\r\n\r\n".encode())
    await writer.drain()
    return reader, writer


async def test_a_slow_client_is_cut_off_and_can_resume(small: Door) -> None:
    script = small.script().stage_created()
    await script.write()
    slow, writer = await _stalled(small, script.run_id)
    async with streaming(small, f"/v1/runs/{script.run_id}/events") as fast:
        await until_open(small, 2)
        seen: list[Message | None] = [await fast.next()]
        wrote = 0
        while all(not stream._slow for stream in small.gateway.streams._open):
            await script.stage_steps(1, "x" * 100_000).write()
            wrote += 1
            seen.append(await fast.next())
            assert wrote < 200
        text = b""
        async with asyncio.timeout(5):
            while b"slow_consumer" not in text:
                text += await slow.read(65536)
        assert text.count(b"\nid: ") < wrote, "others get all of it, the slow one a part"
        writer.close()
        await script.stage_end().write()
        rest = await fast.rest()
    assert sequences([m for m in seen if m] + rest) == list(range(1, wrote + 3))
    frame = text.rpartition(b"event: agentos.error\ndata: ")[2].partition(b"\n")[0]
    error = orjson.loads(frame)["error"]
    assert (error["code"], error["retryable"]) == ("slow_consumer", True)
    last = int(text.rpartition(b"\nid: ")[2].partition(b"\n")[0])
    path = f"/v1/runs/{script.run_id}/events?after_sequence={last}"
    async with streaming(small, path) as resumed:
        assert sequences(await resumed.rest()) == list(range(last + 1, wrote + 3))


async def test_a_client_that_never_reads_is_dropped_and_blocks_nobody(small: Door) -> None:
    script = small.script().stage_created()
    await script.write()
    _, writer = await _stalled(small, script.run_id)
    await until_open(small, 1)
    for _ in range(60):
        await script.stage_steps(1, "x" * 100_000).write()
    await eventually(lambda: not len(small.gateway.streams))
    writer.close()
    status, _, _ = await small.call("GET", f"/v1/runs/{script.run_id}")
    assert status == 200


async def test_a_slow_catch_up_is_not_the_client_s_fault(small: Door) -> None:
    script = small.script().stage_created()
    await script.write()
    for _ in range(30):
        await script.stage_steps(1, "x" * 100_000).write()
    async with streaming(small, f"/v1/runs/{script.run_id}/events") as reader:
        for _ in range(100):
            await script.stage_steps(1).write()
        await script.stage_end().write()
        assert sequences(await reader.rest()) == list(range(1, 133))


async def test_a_client_that_leaves_is_noticed(door: Door) -> None:
    script = door.script().stage_created()
    await script.write()
    _, writer = await _stalled(door, script.run_id)
    await until_open(door, 1)
    writer.close()
    await eventually(lambda: not len(door.gateway.streams) and not door.gateway.tail._aggregates)


async def test_deltas_only_for_those_who_ask(door: Door) -> None:
    script = door.script().stage_created()
    await script.write()
    heard = set(door.signals._subscribers)
    path = f"/v1/runs/{script.run_id}/events"
    async with (
        streaming(door, path) as plain,
        streaming(door, f"{path}?deltas=true") as asked,
    ):
        await until_open(door, 2)
        data = orjson.dumps({"run_id": script.run_id, "step_id": "stp_1", "text": "hel"})
        await door.signals.publish(delta(TENANT, script.run_id), data)
        await asyncio.sleep(0)
        await script.stage_end().write()
        assert sequences(await plain.rest()) == [1, 2]
        got = await asked.rest()
    assert [m.event for m in got] == ["agentos.event", "agentos.delta", "agentos.event"]
    assert (got[1].id, got[1].data["text"]) == ("", "hel")
    assert set(door.signals._subscribers) == heard, "only the heartbeats are still heard"


async def test_create_and_stream(door: Door) -> None:
    script = door.script("run_new").stage_created()
    position = await script.write()
    view = script.run.view()
    door.answer("run.create", {"run": view, "position": position, "existing": False})
    path = f"/v1/agents/{AGENT}/runs:stream"
    body = {"input": {"type": "text", "text": "hi"}}
    async with door.client.post(path, json=body, headers=bearer()) as response:
        assert response.status == 200
        assert response.headers["X-Run-Id"] == "run_new"
        assert response.headers["Location"] == "/v1/runs/run_new"
        reader = Reader(response)
        await until_open(door, 1)
        await door.signals.publish(delta(TENANT, "run_new"), b'{"text":"h"}')
        await asyncio.sleep(0)
        await script.stage_end().write()
        got = await reader.rest()
    assert [m.event for m in got] == ["agentos.event", "agentos.delta", "agentos.event"]


async def test_create_and_stream_answers_errors_as_json(door: Door) -> None:
    door.answer("run.create", ConflictError("other body"))
    body = {"input": {"type": "text", "text": "hi"}}
    status, answer, _ = await door.call("POST", f"/v1/agents/{AGENT}/runs:stream", json=body)
    assert (status, answer["error"]["code"]) == (409, "conflict")


async def test_a_tenant_s_stream_begins_now_and_shows_all_its_runs(door: Door) -> None:
    await door.finished()
    async with streaming(door, "/v1/events") as reader:
        await until_open(door, 1)
        one = await door.finished(run_id="run_one")
        await door.script("run_other", "tnt_b").stage_created().write()
        two = await door.finished(run_id="run_two")
        got = [await reader.next() for _ in range(6)]
    runs = [m.data["event"]["run_id"] for m in got if m]
    assert runs == [one.run_id] * 3 + [two.run_id] * 3
    assert [m.id for m in got if m] == ["2-1", "2-2", "2-3", "4-1", "4-2", "4-3"]


@pytest.mark.parametrize("by_header", [True, False])
async def test_a_tenant_s_stream_resumes_behind_position_and_line(
    door: Door, by_header: bool
) -> None:
    await door.finished(run_id="run_1")
    await door.script("run_b", "tnt_b").stage_created().write()
    await door.finished(run_id="run_2")
    query, headers = ("", {"Last-Event-ID": "1-2"}) if by_header else ("?after=1-2", {})
    async with streaming(door, f"/v1/events{query}", **headers) as reader:
        await until_open(door, 1)
        await door.finished(run_id="run_3")
        got = [await reader.next() for _ in range(7)]
    assert [m.id for m in got if m] == ["1-3", "3-1", "3-2", "3-3", "4-1", "4-2", "4-3"]


async def test_a_tenant_s_stream_is_filtered(door: Door) -> None:
    query = "?after=0-0&types=run.completed&agent_id=agt_two"
    await door.script("run_1").stage_created("agt_one").stage_end().write()
    tricky = 'x","agent_id":"agt_two","y":"'
    await door.script("run_2").stage_created("agt_one", text=tricky).stage_end().write()
    await door.script("run_3").stage_created("agt_two").stage_end().write()
    async with streaming(door, f"/v1/events{query}") as reader:
        message = await reader.next()
    assert message is not None
    assert (message.id, message.data["event"]["run_id"]) == ("3-2", "run_3")


@pytest.mark.parametrize("after", ["x", "1", "1-", "-1-1", "1-1-1", "99999999999999999999-1"])
async def test_a_tenant_cursor_that_does_not_fit(door: Door, after: str) -> None:
    status, body, _ = await door.call("GET", f"/v1/events?after={after}")
    assert (status, body["error"]["code"]) == (400, "invalid_request")


async def test_the_end_of_the_process_ends_streams_so_that_clients_resume(door: Door) -> None:
    script = door.script().stage_created()
    await script.write()
    async with streaming(door, f"/v1/runs/{script.run_id}/events") as reader:
        await until_open(door, 1)
        door.stop.set()
        assert sequences(await reader.rest()) == [1]


async def test_a_log_that_breaks_ends_the_stream_with_an_error(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = door.script().stage_created()
    await script.write()

    async def read(*_: object, **__: object) -> object:
        raise DependencyUnavailableError("gone", dependency="nats")

    async with streaming(door, f"/v1/runs/{script.run_id}/events") as reader:
        await until_open(door, 1)
        monkeypatch.setattr(door.log, "read", read)
        (stream,) = door.gateway.streams._open
        stream.missed()
        got = await reader.rest()
    assert sequences(got[:1]) == [1]
    assert got[1].event == "agentos.error"
    assert got[1].data["error"]["code"] == "dependency_unavailable"


async def test_a_waiter_wakes_at_the_end_and_at_a_gap() -> None:
    waiter = FinalWaiter(frozenset({"end"}))
    assert not await waiter.wait(asyncio.get_running_loop().time())
    waiter.missed()
    assert await waiter.wait(asyncio.get_running_loop().time() + 1)
    assert not await waiter.wait(asyncio.get_running_loop().time())


async def test_streams_are_counted(door: Door) -> None:
    script = door.script().stage_created()
    await script.write()
    async with streaming(door, f"/v1/runs/{script.run_id}/events"):
        await until_open(door, 1)
        async with aiohttp.ClientSession() as other, other.get(door.urls[1] + "/metrics") as got:
            assert "agentos_sse_streams 1.0" in await got.text()
