"""The contract of the log, kept by every adapter."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from agentos.domain.errors import AppendConflictError, PayloadTooLargeError
from agentos.domain.log import Lease, void_commit
from agentos.domain.ports import EventLog
from agentos.domain.subjects import StreamRef
from agentos.infra.jetstream import api
from agentos.infra.jetstream.log import JetStreamLog
from agentos.infra.jetstream.streams import ensure_log
from agentos.infra.memory.log import MemoryLog
from tests.contracts.logs import close, collect, commit, connected, jetstream_log, new_id, past, run
from tests.infra.embedded import EmbeddedNats
from tests.infra.privacy.given import Process


@pytest.fixture(params=["memory", "sealing", "jetstream", "jetstream-leader"])
async def log(request: pytest.FixtureRequest) -> AsyncIterator[EventLog]:
    if request.param == "memory":
        yield MemoryLog()
        return
    if request.param == "sealing":
        yield Process().log
        return
    server: EmbeddedNats = request.getfixturevalue("nats_server")
    async with jetstream_log(server.url) as jetstream:
        if request.param == "jetstream-leader":
            jetstream._replicated = True  # reads as it does with replicas
        yield jetstream


async def test_an_append_takes_the_next_position(log: EventLog) -> None:
    assert await log.head() == 0
    assert await log.append(commit(run("a")), expected=0) == 1
    assert await log.append(commit(run("b")), expected=0) == 2
    assert await log.append(commit(run("a"), 2), expected=1) == 3
    assert await log.head() == 3


async def test_a_log_of_its_own_begins_at_nothing(log: EventLog) -> None:
    assert await log.start() == 0
    await log.append(commit(run("a")), expected=0)
    assert await log.start() == 0


async def test_a_log_may_begin_behind_a_position(nats_server: EmbeddedNats) -> None:
    async with connected(nats_server.url) as connection:
        await ensure_log(connection, expect_log=False, partition=900, start=41)
        filled = JetStreamLog(connection, 900)
        assert (await filled.start(), await filled.head()) == (41, 41)
        assert await filled.append(commit(run("a")), expected=0) == 42
        assert [record.position for record in await past(filled.tail(after=0))] == [42]
        await api.call(connection, "STREAM.DELETE.LOG_900")


async def test_a_commit_comes_back_whole(log: EventLog) -> None:
    written = replace(
        commit(run("a"), 1, "agentos.run.created", "agentos.run.started"),
        command_id="cmd_1",
        causation_id="evt_0",
        lease=Lease("wrk_1;with semicolon", 1_700_000_000_123),
        base=17,
        priority="high",
        waits_until=1_700_000_000_999,
    )
    await log.append(written, expected=0)
    (read,) = await log.read(run("a"))
    for name in written.__dataclass_fields__:
        assert getattr(read, name) == getattr(written, name)
    assert (read.position, read.last_sequence, len(read.lines())) == (1, 2, 2)
    assert read == await log.last(run("a"))


async def test_only_the_expected_position_is_accepted(log: EventLog) -> None:
    await log.append(commit(run("a")), expected=0)
    for stale in (0, 2, 99):
        with pytest.raises(AppendConflictError):
            await log.append(commit(run("a"), 2), expected=stale)
    with pytest.raises(AppendConflictError):
        await log.append(commit(run("b")), expected=1)
    assert len(await log.read(run("a"))) == 1
    assert await log.head() == 1


async def test_a_repeated_append_is_the_same_append(log: EventLog) -> None:
    mine = commit(run("a"))
    assert await log.append(mine, expected=0) == 1
    assert await log.append(mine, expected=0) == 1
    await log.append(commit(run("a"), 2), expected=1)
    assert await log.append(mine, expected=0) == 1, "also behind another writer's append"
    assert [record.position for record in await log.read(run("a"))] == [1, 2]


async def test_the_same_decision_with_a_new_id_is_another_append(log: EventLog) -> None:
    mine = commit(run("a"))
    await log.append(mine, expected=0)
    with pytest.raises(AppendConflictError):
        await log.append(replace(mine, commit_id=new_id("cmt")), expected=0)


async def test_of_two_racers_one_wins(log: EventLog) -> None:
    racers = [commit(run("a")) for _ in range(8)]
    results = await asyncio.gather(
        *(log.append(racer, expected=0) for racer in racers), return_exceptions=True
    )
    won = [racer for racer, result in zip(racers, results, strict=True) if result == 1]
    assert len(won) == 1
    assert sum(isinstance(result, AppendConflictError) for result in results) == 7
    (record,) = await log.read(run("a"))
    assert record.commit_id == won[0].commit_id


async def test_a_void_commit_closes_its_subject(log: EventLog) -> None:
    await log.append(void_commit(run("a"), new_id), expected=0)
    with pytest.raises(AppendConflictError):
        await log.append(commit(run("a")), expected=0)
    (record,) = await log.read(run("a"))
    assert record.is_void
    assert record.lines() == []


async def test_a_late_void_commit_loses(log: EventLog) -> None:
    await log.append(commit(run("a")), expected=0)
    with pytest.raises(AppendConflictError):
        await log.append(void_commit(run("a"), new_id), expected=0)


async def test_reading_begins_behind_a_position(log: EventLog) -> None:
    position = 0
    for first in range(1, 6):
        position = await log.append(commit(run("a"), first), expected=position)
        await log.append(commit(run(f"other{first}")), expected=0)
    assert [r.first_sequence for r in await log.read(run("a"))] == [1, 2, 3, 4, 5]
    assert [r.first_sequence for r in await log.read(run("a"), after=3)] == [3, 4, 5]
    assert await log.read(run("a"), after=position) == []
    assert await log.read(run("a"), after=10_000) == []
    assert await log.read(run("nobody")) == []


async def test_a_long_stream_is_read_over_pages(log: EventLog) -> None:
    position = 0
    for first in range(1, 2101):
        position = await log.append(commit(run("a"), first), expected=position)
    records = await log.read(run("a"))
    assert [record.first_sequence for record in records] == list(range(1, 2101))


async def test_large_commits_are_read_over_pages(log: EventLog) -> None:
    position = 0
    for first in range(1, 13):
        large = commit(run("a"), first, body=b"%02d" % first * 2_000_000)
        position = await log.append(large, expected=position)
    records = await log.read(run("a"))
    assert [record.body[:2] for record in records] == [b"%02d" % n for n in range(1, 13)]


async def test_a_commit_over_the_limit_is_refused(log: EventLog) -> None:
    with pytest.raises(PayloadTooLargeError):
        await log.append(commit(run("a"), body=b"x" * (9 * 1024 * 1024)), expected=0)
    assert await log.append(commit(run("a")), expected=0) == 1


async def test_last_is_the_newest_commit(log: EventLog) -> None:
    assert await log.last(run("a")) is None
    await log.append(commit(run("a")), expected=0)
    await log.append(commit(run("a"), 2), expected=1)
    last = await log.last(run("a"))
    assert last is not None
    assert (last.position, last.first_sequence) == (2, 2)


async def test_last_many_leaves_out_what_is_not_there(log: EventLog) -> None:
    for name in range(1200):
        await log.append(commit(run(f"r{name}")), expected=0)
    await log.append(commit(run("r7"), 2), expected=8)
    asked = [run(f"r{name}") for name in range(1200)] + [run("nobody"), run("r7", "tnt_b")]
    found = await log.last_many(asked)
    assert set(found) == set(asked[:1200])
    assert all(found[ref].ref == ref for ref in found)
    assert found[run("r7")].position == 1201
    assert await log.last_many([]) == {}


async def test_last_many_of_large_commits(log: EventLog) -> None:
    refs = [run(f"r{name}") for name in range(14)]
    for ref in refs:
        await log.append(commit(ref, body=b"x" * 3_000_000), expected=0)
    found = await log.last_many(refs)
    assert {ref: record.position for ref, record in found.items()} == {
        ref: position for position, ref in enumerate(refs, 1)
    }


async def test_last_of_kind_knows_every_aggregate(log: EventLog) -> None:
    for name in range(1100):
        await log.append(commit(run(f"r{name}")), expected=0)
    await log.append(commit(run("r7"), 2), expected=8)
    await log.append(commit(run("b", "tnt_b")), expected=0)
    await log.append(commit(StreamRef("tnt_a", "quota", "runs")), expected=0)
    everyone = await log.last_of_kind("run")
    assert len(everyone) == 1101
    assert {r.ref: r.position for r in everyone}[run("r7")] == 1101
    assert [r.ref for r in await log.last_of_kind("run", "tnt_b")] == [run("b", "tnt_b")]
    assert [r.ref.aggregate_id for r in await log.last_of_kind("quota")] == ["runs"]
    assert await log.last_of_kind("agent") == []


async def test_another_tenants_events_are_never_returned(log: EventLog) -> None:
    await log.append(commit(run("x", "tnt_a")), expected=0)
    await log.append(commit(run("x", "tnt_b")), expected=0)
    for tenant in ("tnt_a", "tnt_b"):
        ref = run("x", tenant)
        last = await log.last(ref)
        assert last is not None
        assert last.ref == ref
        assert [r.ref for r in await log.read(ref)] == [ref]
        assert list(await log.last_many([ref])) == [ref]
        assert [r.ref for r in await log.last_of_kind("run", tenant)] == [ref]
        tail = log.tail(after=0, tenant_id=tenant)
        assert [r.ref for r in await past(tail)] == [ref]
    assert await log.last(run("x", "tnt_c")) is None
    assert await log.read(run("x", "tnt_c")) == []


@pytest.mark.parametrize(
    "bad", ["tnt_a.b", "tnt_*", "tnt_>", "tnt_a b", "*", ">", "", "tnt_a\r\nPUB x", "tnt_ä"]
)
async def test_ids_that_do_not_fit_never_reach_a_subject(log: EventLog, bad: str) -> None:
    for ref in (StreamRef(bad, "run", "run_a"), StreamRef("tnt_a", "run", bad)):
        with pytest.raises(ValueError, match="not fit for a subject"):
            await log.append(commit(ref), expected=0)
        with pytest.raises(ValueError, match="not fit for a subject"):
            await log.last(ref)
        with pytest.raises(ValueError, match="not fit for a subject"):
            await log.last_many([ref])
        with pytest.raises(ValueError, match="not fit for a subject"):
            await log.read(ref)
    with pytest.raises(ValueError, match="not fit for a subject"):
        await log.last_of_kind("run", bad)
    with pytest.raises(ValueError, match="not fit for a subject"):
        await anext(log.tail(after=0, tenant_id=bad))
    assert await log.head() == 0


async def test_a_tail_of_nothing_says_at_once_that_it_caught_up(log: EventLog) -> None:
    tail = log.tail(after=0)
    first = await anext(tail)
    assert (list(first.records), first.caught_up) == ([], True)
    await log.append(commit(run("a")), expected=0)
    second = await anext(tail)
    assert ([r.position for r in second.records], second.caught_up) == ([1], True)
    await close(tail)


async def test_a_tail_begins_behind_its_position(log: EventLog) -> None:
    for name in range(5):
        await log.append(commit(run(f"r{name}")), expected=0)
    tail = log.tail(after=3)
    assert [r.position for r in await collect(tail, 2)] == [4, 5]
    await log.append(commit(run("r9")), expected=0)
    assert [r.position for r in await collect(tail, 1)] == [6]
    await close(tail)


async def test_a_tail_from_the_end_shows_only_what_comes(log: EventLog) -> None:
    await log.append(commit(run("a")), expected=0)
    tail = log.tail(after=await log.head())
    first = await anext(tail)
    assert (list(first.records), first.caught_up) == ([], True)
    await log.append(commit(run("b")), expected=0)
    assert [r.position for r in await collect(tail, 1)] == [2]
    await close(tail)


async def test_a_tail_goes_from_past_to_present_without_gap_or_repeat(log: EventLog) -> None:
    async def write(writer: int) -> None:
        for number in range(400):
            await log.append(commit(run(f"w{writer}n{number}")), expected=0)

    await write(0)
    writers = asyncio.gather(*(write(writer) for writer in range(1, 5)))
    tails = [log.tail(after=after) for after in (0, 123, 399)]
    seen = await asyncio.gather(
        *(collect(tail, 2000 - after) for tail, after in zip(tails, (0, 123, 399), strict=True))
    )
    await writers
    for after, records in zip((0, 123, 399), seen, strict=True):
        assert [record.position for record in records] == list(range(after + 1, 2001))
    for tail in tails:
        await close(tail)


async def test_a_tail_is_caught_up_exactly_when_nothing_waits(log: EventLog) -> None:
    for name in range(1500):
        await log.append(commit(run(f"r{name}")), expected=0)
    tail = log.tail(after=0)
    seen = 0
    while seen < 1500:
        batch = await anext(tail)
        seen += len(batch.records)
        assert batch.caught_up is (seen == 1500)
    await close(tail)


async def test_a_tail_of_some_kinds_of_one_tenant(log: EventLog) -> None:
    refs = [
        StreamRef(tenant, kind, aggregate)
        for tenant in ("tnt_a", "tnt_b")
        for kind, aggregate in (("run", "run_1"), ("quota", "runs"), ("agent", "agt_1"))
    ]
    for ref in refs:
        await log.append(commit(ref), expected=0)
    expected: dict[tuple[str, ...], dict[str | None, list[int]]] = {
        ("run",): {"tnt_a": [1], None: [1, 4]},
        ("run", "quota"): {"tnt_a": [1, 2], None: [1, 2, 4, 5]},
        ("run", "run"): {"tnt_a": [1], None: [1, 4]},
        (): {"tnt_a": [1, 2, 3], None: [1, 2, 3, 4, 5, 6]},
        ("audit",): {"tnt_a": [], None: []},
    }
    for kinds, by_tenant in expected.items():
        for tenant, positions in by_tenant.items():
            tail = log.tail(after=0, kinds=kinds, tenant_id=tenant)
            assert [r.position for r in await past(tail)] == positions


async def test_a_filtered_tail_goes_on_live(log: EventLog) -> None:
    tail = log.tail(after=0, kinds=("run", "agent"), tenant_id="tnt_a")
    assert (await anext(tail)).caught_up
    await log.append(commit(run("a", "tnt_b")), expected=0)
    await log.append(commit(StreamRef("tnt_a", "quota", "runs")), expected=0)
    await log.append(commit(run("a")), expected=0)
    await log.append(commit(StreamRef("tnt_a", "agent", "agt_1")), expected=0)
    assert [r.position for r in await collect(tail, 2)] == [3, 4]
    await close(tail)


async def test_a_tail_of_headers_has_no_bodies(log: EventLog) -> None:
    written = commit(run("a"), 3, "agentos.x", "agentos.y")
    await log.append(written, expected=0)
    tail = log.tail(after=0, headers_only=True)
    (record,) = await collect(tail, 1)
    assert replace(record, body=written.body) == await log.last(run("a"))
    assert record.body == b""
    assert record.types == ("agentos.x", "agentos.y")
    assert record.last_sequence == 4
    await close(tail)


async def test_tails_are_independent(log: EventLog) -> None:
    one, two = log.tail(after=0), log.tail(after=0)
    await anext(one)
    await log.append(commit(run("a")), expected=0)
    await collect(one, 1)
    await close(one)
    assert [r.position for r in await collect(two, 1)] == [1]
    await close(two)


async def test_a_waiting_tail_can_be_cancelled(log: EventLog) -> None:
    tail = log.tail(after=0)
    await anext(tail)
    waiting = asyncio.ensure_future(anext(tail))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await close(tail)


async def test_a_purge_removes_what_it_names_and_moves_nothing(log: EventLog) -> None:
    for first, expected in ((1, 0), (2, 1), (3, 2)):
        await log.append(commit(run("a"), first), expected=expected)
    await log.append(commit(run("b")), expected=0)
    await log.append(commit(run("a", "tnt_b")), expected=0)
    await log.purge(run("a"), through=2)
    assert [record.position for record in await log.read(run("a"))] == [3]
    assert [record.position for record in await past(log.tail(after=0))] == [3, 4, 5]
    for _ in range(2):
        await log.purge(run("a"), through=3)
    assert await log.read(run("a")) == []
    assert await log.last(run("a")) is None
    assert await log.last_many([run("a"), run("b")]) == {run("b"): await log.last(run("b"))}
    assert [record.position for record in await past(log.tail(after=0))] == [4, 5]
    assert await log.head() == 5
    assert await log.append(commit(run("c")), expected=0) == 6


async def test_a_purge_of_the_end_leaves_the_head(log: EventLog) -> None:
    await log.append(commit(run("a")), expected=0)
    await log.append(commit(run("b")), expected=0)
    await log.purge(run("b"), through=2)
    assert await log.head() == 2
    assert [record.position for record in await past(log.tail(after=0))] == [1]
    assert await log.append(commit(run("b")), expected=0) == 3, "it is as one that never was"


async def test_a_tail_goes_on_over_a_purge(log: EventLog) -> None:
    for name in "abcd":
        await log.append(commit(run(name)), expected=0)
    tail = log.tail(after=0)
    assert [record.position for record in await collect(tail, 4)] == [1, 2, 3, 4]
    await log.purge(run("b"), through=2)
    await log.purge(run("d"), through=4)
    await log.append(commit(run("e")), expected=0)
    assert [record.position for record in await collect(tail, 1)] == [5]
    await close(tail)


async def test_a_purge_stops_before_what_was_written_since(log: EventLog) -> None:
    await log.append(commit(run("a")), expected=0)
    await log.append(commit(run("a"), 2), expected=1)
    await log.purge(run("a"), through=1)
    (left,) = await log.read(run("a"))
    assert (left.position, left.first_sequence) == (2, 2)
    assert await log.append(commit(run("a"), 3), expected=2) == 3
