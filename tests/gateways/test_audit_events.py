"""GET /v1/audit/events: the chain as it grows, resumed without gap or repeat, and nobody else's."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from agentos.domain.audit.chain import AuditChain, Entry, chain_ref
from agentos.domain.audit.checkpoint import AuditCheckpoints, checkpoints_ref
from agentos.domain.auth import Principal
from agentos.domain.errors import DependencyUnavailableError
from agentos.domain.log import make_commit
from tests.domain.audit.keys import signer
from tests.gateways.conftest import TENANT, Door, Reader, bearer, eventually
from tests.gateways.test_admin import OWN, PLATFORM, HandledNode
from tests.handlers.auditor.audited import records_of

PATH = "/v1/audit/events"


async def write(door: Door, *resources: str, tenant_id: str = TENANT, action: str = "x.do") -> int:
    """Append records of those resources in one commit; return its position."""
    chain = AuditChain(chain_ref(tenant_id)).fold(await door.log.read(chain_ref(tenant_id)))
    expected = chain.position
    entries = [
        Entry(Principal(principal_id="usr_a"), action, name, "allowed", door.new_id("evt"))
        for name in resources
    ]
    events = chain.record(entries, door.script("run_x").moment())
    return await door.log.append(make_commit(chain.ref, events, door.new_id), expected=expected)


async def sign(door: Door) -> None:
    """Append a checkpoint, which is no record."""
    records = await records_of(door.log, TENANT)
    signed = AuditCheckpoints(checkpoints_ref(TENANT))
    events = signed.sign([r["hash"] for r in records], signer(), door.script("run_x").moment())
    await door.log.append(make_commit(signed.ref, events, door.new_id), expected=0)


@contextlib.asynccontextmanager
async def streaming(door: Door, query: str = "", **headers: str) -> AsyncIterator[Reader]:
    async with door.client.get(f"{PATH}{query}", headers={**OWN, **headers}) as response:
        assert response.status == 200, await response.text()
        streams = door.gateway.streams
        await eventually(lambda: len(streams) == 1 and all(s.live for s in streams._open))
        yield Reader(response)


async def resources(reader: Reader, count: int) -> list[str]:
    found = [await reader.next() for _ in range(count)]
    return [m.data["event"]["payload"]["resource"] for m in found if m is not None]


async def test_the_past_from_a_time_then_live(door: Door) -> None:
    await write(door, "a", "b")
    start = await write(door, "c", "d", "e")
    await sign(door)
    await write(door, "other", tenant_id="tnt_b")
    door.reads.audit_start = (start, 1)
    async with streaming(door, "?since=2026-01-01T00:00:00Z&last=9") as reader:
        await write(door, "f")
        await write(door, "other", tenant_id="tnt_b")
        await door.finished()
        await write(door, "g", "h")
        assert await resources(reader, 5) == ["d", "e", "f", "g", "h"]
    assert [a[2:] for a in door.reads.asked] == [(1_767_225_600_000, 9)]


async def test_from_now_on_without_a_place(door: Door) -> None:
    await write(door, "a", "b")
    async with streaming(door) as reader:
        await write(door, "c")
        assert await resources(reader, 1) == ["c"]
    assert door.reads.asked == []


async def test_it_resumes_behind_any_record_without_gap_or_repeat(door: Door) -> None:
    names = [f"r{n}" for n in range(9)]
    for at in range(0, 9, 3):
        await write(door, *names[at : at + 3])
    await sign(door)
    ids = []
    async with streaming(door, "?after=0-0") as reader:
        for _ in names:
            message = await reader.next()
            assert message is not None
            assert message.event == "agentos.event"
            assert message.data["event"]["type"] == "agentos.audit.recorded"
            ids.append(message.id)
    for seen, cursor in enumerate(ids, 1):
        await eventually(lambda: len(door.gateway.streams) == 0)
        async with streaming(door, **{"Last-Event-ID": cursor}) as reader:
            await write(door, f"new{seen}")
            expected = names[seen:] + [f"new{n}" for n in range(1, seen + 1)]
            assert await resources(reader, len(expected)) == expected


async def test_before_any_record_it_says_where_to_resume(door: Door) -> None:
    async with door.client.get(PATH, headers=OWN) as response:
        line = await response.content.readline()
    assert line.startswith(b"id: ")
    await write(door, "made meanwhile")
    await eventually(lambda: len(door.gateway.streams) == 0)
    async with streaming(door, **{"Last-Event-ID": line[4:].strip().decode()}) as reader:
        assert await resources(reader, 1) == ["made meanwhile"]


async def test_it_is_narrowed_as_a_list_is(door: Door) -> None:
    query = "?after=0-0&action=x.do&principal_id=usr_a&outcome=allowed"
    async with streaming(door, query) as reader:
        await write(door, "no", action="x.other")
        await write(door, "yes")
        assert await resources(reader, 1) == ["yes"]
    await eventually(lambda: len(door.gateway.streams) == 0)
    async with streaming(door, "?after=0-0&run_id=run_none") as reader:
        await write(door, "no")
        head = await door.log.head()
        await eventually(lambda: (door.gateway.tail.position or 0) >= head)
        door.gateway.streams.end_all()
        assert await reader.next() is None


@pytest.mark.parametrize("query", ["?after=7", "?since=now", "?last=-1", "?outcome=maybe"])
async def test_what_does_not_fit_is_400(door: Door, query: str) -> None:
    assert (await door.call("GET", f"{PATH}{query}", headers=OWN))[0] == 400


async def test_who_may(door: Door) -> None:
    node = HandledNode(door)
    await node.answer()
    await node.tenant("tnt_x")
    for tenant_id, headers, status in (
        ("tnt_x", OWN, 404), ("tnt_none", OWN, 404), ("tnt_node", OWN, 403),
        (TENANT, bearer(), 403), ("tnt_none", PLATFORM, 404),
    ):  # fmt: skip
        got, _, _ = await door.call("GET", f"{PATH}?tenant_id={tenant_id}", headers=headers)
        assert got == status, tenant_id
    assert await records_of(door.log, "tnt_x") == []
    await node.close()


async def test_a_look_at_anothers_is_recorded_once_however_long_it_is(door: Door) -> None:
    node = HandledNode(door)
    await node.answer()
    await node.tenant("tnt_x")
    query = f"{PATH}?tenant_id=tnt_x&last=5&action=x.do"
    async with door.client.get(query, headers=PLATFORM) as response:
        assert response.status == 200
        reader = Reader(response)
        await write(door, "one", tenant_id="tnt_x")
        await write(door, "two", tenant_id="tnt_x")
        assert await resources(reader, 2) == ["one", "two"]
    looks = [r for r in await records_of(door.log, "tnt_x") if r["action"] == "audit.query"]
    assert [r["meta"]["filters"] for r in looks] == ["action,last"]

    async def away(*_: Any) -> dict[str, Any]:
        raise DependencyUnavailableError("away", dependency="nats")

    door.bus.handlers["audit.query"] = away
    assert (await door.call("GET", f"{PATH}?tenant_id=tnt_x", headers=PLATFORM))[0] == 503
    await node.close()


async def test_a_tenants_stream_of_runs_shows_no_record(door: Door) -> None:
    async with door.client.get("/v1/events", headers=bearer()) as response:
        await eventually(lambda: len(door.gateway.streams) == 1)
        await write(door, "a")
        await door.finished()
        message = await Reader(response).next()
    assert message is not None
    assert message.data["event"]["type"] == "agentos.run.created"
