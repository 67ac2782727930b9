"""The log across restarts and crashes of its broker."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from agentos.domain.errors import AppendConflictError, DependencyUnavailableError
from agentos.domain.log import Recorded, TailBatch
from agentos.domain.subjects import StreamRef, stream_name
from agentos.infra.jetstream import api
from agentos.infra.jetstream.connection import Connection, DisconnectedError, Reply
from agentos.infra.jetstream.log import JetStreamLog
from agentos.infra.jetstream.pull import SILENCE, Pull
from agentos.infra.jetstream.streams import ensure_log
from tests.contracts.logs import close, collect, commit, connected, run
from tests.infra.embedded import EmbeddedNats


@pytest.fixture
async def connection(own_nats_server: EmbeddedNats) -> AsyncIterator[Connection]:
    async with connected(own_nats_server.url) as open_connection:
        yield open_connection


@pytest.fixture
async def log(connection: Connection) -> JetStreamLog:
    await ensure_log(connection, expect_log=False)
    return JetStreamLog(connection)


async def restart(server: EmbeddedNats) -> None:
    """Kill the broker and bring it back, without holding up the loop."""
    await asyncio.to_thread(server.restart)


class Writer:
    """Appends one commit after another to a stream of its own and keeps what was acknowledged."""

    def __init__(self, log: JetStreamLog, ref: StreamRef) -> None:
        self.log, self.ref = log, ref
        self.acknowledged: dict[int, str] = {}

    async def write(self, number: int) -> None:
        """Append `number` commits, each behind the one before."""
        for _ in range(number):
            await self.next()

    async def write_until(self, stop: asyncio.Event) -> None:
        """Append commits until told to stop."""
        while not stop.is_set():
            await self.next()

    async def next(self) -> None:
        """Append one commit behind the last."""
        mine = commit(self.ref, len(self.acknowledged) + 1)
        position = max(self.acknowledged, default=0)
        self.acknowledged[await self.log.append(mine, expected=position)] = mine.commit_id


async def read_until(tail: AsyncIterator[TailBatch], position: int) -> list[Recorded]:
    """Return all records of a tail up to a position."""
    records: list[Recorded] = []
    while not records or records[-1].position < position:
        records += (await anext(tail)).records
    return records


async def test_nothing_acknowledged_is_lost_and_nothing_is_doubled_by_kills(
    own_nats_server: EmbeddedNats, log: JetStreamLog
) -> None:
    writers = [Writer(log, run(f"w{n}")) for n in range(16)]
    stop = asyncio.Event()
    tail = log.tail(after=0)
    records: list[Recorded] = []
    writing = asyncio.gather(*(writer.write_until(stop) for writer in writers))
    for _ in range(3):
        grown = await log.head() + 300
        records += await read_until(tail, grown)
        await restart(own_nats_server)
    stop.set()
    await writing
    records += await read_until(tail, await log.head())
    for writer in writers:
        stored = {r.position: r.commit_id for r in await log.read(writer.ref)}
        assert stored == writer.acknowledged
    assert [r.position for r in records] == list(range(1, await log.head() + 1))
    assert sum(len(writer.acknowledged) for writer in writers) == len(records)
    await close(tail)


async def test_a_filtered_tail_survives_a_kill_while_it_waits(
    own_nats_server: EmbeddedNats, log: JetStreamLog
) -> None:
    tail = log.tail(after=0, kinds=("run",), tenant_id="tnt_a", headers_only=True)
    assert (await anext(tail)).caught_up
    waiting = asyncio.ensure_future(anext(tail))
    await restart(own_nats_server)
    await log.append(commit(run("a", "tnt_b")), expected=0)
    await log.append(commit(run("a")), expected=0)
    batch = await asyncio.wait_for(waiting, 10)
    assert [r.position for r in batch.records] == [2]
    assert batch.caught_up
    await close(tail)


async def test_a_tail_that_lagged_goes_on_behind_what_it_read(
    own_nats_server: EmbeddedNats, log: JetStreamLog
) -> None:
    await Writer(log, run("a")).write(1500)
    tail = log.tail(after=0)
    first = (await anext(tail)).records
    assert first[0].position == 1
    await restart(own_nats_server)
    rest = await read_until(tail, 1500)
    assert [r.position for r in (*first, *rest)] == list(range(1, 1501))
    await close(tail)


async def test_reads_wait_for_a_broker_that_comes_back(
    own_nats_server: EmbeddedNats, log: JetStreamLog
) -> None:
    await Writer(log, run("a")).write(3)
    own_nats_server.kill()
    reads = asyncio.gather(
        log.last(run("a")), log.read(run("a")), log.head(), log.last_many([run("a")])
    )
    await asyncio.to_thread(own_nats_server.start)
    last, records, head, many = await reads
    assert last is not None
    assert (last.position, len(records), head, list(many)) == (3, 3, 3, [run("a")])


async def test_a_broker_that_stays_away_is_told_in_seconds(
    own_nats_server: EmbeddedNats, log: JetStreamLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentos.infra.jetstream.api.TOTAL_TIMEOUT", 0.5)
    own_nats_server.kill()
    with pytest.raises(DependencyUnavailableError) as caught:
        await asyncio.wait_for(log.append(commit(run("a")), expected=0), 5)
    assert caught.value.details == {"dependency": "nats"}
    with pytest.raises(DependencyUnavailableError):
        await asyncio.wait_for(log.append(commit(run("a")), expected=0), 5)


class LossyConnection:
    """Lets a request through and loses its answer, once; then it is the connection."""

    def __init__(self, connection: Connection, meanwhile: Callable[[], Awaitable[object]]) -> None:
        self._ask = connection.ask
        self._meanwhile: Callable[[], Awaitable[object]] | None = meanwhile

    async def ask(
        self, subject: str, data: bytes, *, headers: bytes = b"", timeout: float
    ) -> Reply:
        answer = await self._ask(subject, data, headers=headers, timeout=timeout)
        if self._meanwhile is not None:
            meanwhile, self._meanwhile = self._meanwhile, None
            await meanwhile()
            raise DisconnectedError("the answer was lost")
        return answer


async def test_an_append_that_was_written_unheard_is_found(
    log: JetStreamLog, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def another_writer_follows() -> None:
        await log.append(commit(run("a"), 2), expected=1)

    monkeypatch.setattr(connection, "ask", LossyConnection(connection, another_writer_follows).ask)
    assert await log.append(commit(run("a")), expected=0) == 1
    assert [r.position for r in await log.read(run("a"))] == [1, 2]


async def test_an_append_that_lost_unheard_is_a_conflict(
    log: JetStreamLog, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await log.append(commit(run("a")), expected=0)

    async def nothing() -> None:
        return

    monkeypatch.setattr(connection, "ask", LossyConnection(connection, nothing).ask)
    with pytest.raises(AppendConflictError):
        await log.append(commit(run("a")), expected=0)


async def test_a_log_that_vanished_ends_a_tail_with_what_to_do(
    log: JetStreamLog, connection: Connection
) -> None:
    await log.append(commit(run("a")), expected=0)
    tail = log.tail(after=0)
    await anext(tail)
    await api.call(connection, f"STREAM.DELETE.{stream_name(0)}")
    with pytest.raises(DependencyUnavailableError, match="restore a backup"):
        await asyncio.wait_for(anext(tail), 15)


async def test_an_append_to_a_missing_log_says_what_to_do(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentos.infra.jetstream.api.TOTAL_TIMEOUT", 0.5)
    with pytest.raises(DependencyUnavailableError, match="agentos doctor"):
        await JetStreamLog(connection).append(commit(run("a")), expected=0)


async def test_a_deleted_consumer_is_made_anew_without_gap_or_repeat(
    log: JetStreamLog, connection: Connection
) -> None:
    writer = Writer(log, run("a"))
    await writer.write(5)
    tail = log.tail(after=0)
    assert [r.position for r in await collect(tail, 5)] == [1, 2, 3, 4, 5]
    names = await api.call(connection, f"CONSUMER.NAMES.{stream_name(0)}")
    waiting = asyncio.ensure_future(anext(tail))
    await asyncio.sleep(0)
    for name in names["consumers"]:
        await api.call(connection, f"CONSUMER.DELETE.{stream_name(0)}.{name}")
    await writer.write(3)
    records = list((await asyncio.wait_for(waiting, 10)).records)
    while len(records) < 3:
        records += (await asyncio.wait_for(anext(tail), 10)).records
    assert [r.position for r in records] == [6, 7, 8]
    await close(tail)


async def test_a_closed_tail_leaves_no_consumer(log: JetStreamLog, connection: Connection) -> None:
    tail = log.tail(after=0)
    await anext(tail)
    await close(tail)
    async with asyncio.timeout(20):  # the broker does what it is asked in no order
        while await _consumers(connection):  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.02)


async def _consumers(connection: Connection) -> list[str]:
    names = await api.call(connection, f"CONSUMER.NAMES.{stream_name(0)}")
    return names["consumers"] or []


async def test_a_reader_that_does_not_ask_is_not_flooded(
    log: JetStreamLog, connection: Connection
) -> None:
    await Writer(log, run("a")).write(4000)
    before = connection.stats["in_msgs"]
    tail = log.tail(after=0)
    await anext(tail)
    await connection.flush()
    assert connection.stats["in_msgs"] - before < 1500
    assert (await read_until(tail, 4000))[-1].position == 4000
    await close(tail)


async def test_a_tail_ends_when_its_connection_is_closed(
    own_nats_server: EmbeddedNats, log: JetStreamLog
) -> None:
    async with connected(own_nats_server.url) as connection:
        tail = JetStreamLog(connection).tail(after=0)
        await anext(tail)
        waiting = asyncio.ensure_future(anext(tail))
        await asyncio.sleep(0)
    with pytest.raises(DependencyUnavailableError, match="closed"):
        await asyncio.wait_for(waiting, 5)


async def test_a_loop_that_was_held_up_reads_before_it_calls_a_consumer_silent(
    log: JetStreamLog, connection: Connection
) -> None:
    tail = log.tail(after=0)
    await anext(tail)
    names = await api.call(connection, f"CONSUMER.NAMES.{stream_name(0)}")
    pull = Pull(connection, stream_name(0), names["consumers"][0])
    await pull.open()
    pull.want(1)
    await connection.flush()
    time.sleep(SILENCE + 0.2)  # noqa: ASYNC251  # this is what is tested
    assert not pull.silent(), "heartbeats wait in the socket"
    await pull.wait(5)
    assert not pull.silent()
    pull.close()
    await close(tail)


async def test_a_consumer_that_fell_silent_is_replaced(
    own_nats_server: EmbeddedNats, log: JetStreamLog, connection: Connection
) -> None:
    tail = log.tail(after=0)
    await anext(tail)
    waiting = asyncio.ensure_future(anext(tail))
    await connection.flush()
    # The consumer hears no more: its requests go nowhere and it says nothing.
    for sid, subscription in connection._subs.items():
        if "*" not in subscription.subject:
            connection._write(b"UNSUB %d\r\n" % sid)
    async with connected(own_nats_server.url) as other:
        await JetStreamLog(other).append(commit(run("a")), expected=0)
    batch = await asyncio.wait_for(waiting, 10)
    assert [r.position for r in batch.records] == [1]
    await close(tail)
