"""The runner on real PostgreSQL and JetStream: restarts, a second one, a log that is older."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import pytest

from agentos.domain.log import Recorded
from agentos.domain.ports import EventLog
from agentos.domain.run.run import Run
from agentos.infra.jetstream.connection import bounded_close, connect
from agentos.infra.jetstream.log import JetStreamLog
from agentos.infra.jetstream.streams import ensure_log
from agentos.infra.memory.log import MemoryLog
from agentos.projections import runner as runner_module
from agentos.projections.errors import (
    LogBehindReadModelError,
    PositionTakenError,
    ProjectionVersionError,
)
from agentos.projections.queries import Pool, make_pool, positions
from agentos.projections.run_steps.queries import get_steps
from agentos.projections.runner import ProjectionRunner
from agentos.projections.runs.queries import get_run
from agentos.projections.schema import LIVE
from agentos.projections.schema import connect as connect_postgres
from tests.infra.embedded import EmbeddedNats, EmbeddedPostgres
from tests.projections.script import TENANT, Move, Script

WHOLE = [Move(0, action, 0.2, "x", False) for action in (1, 0, 2, 3, 4, 6, 10)]


async def append(log: EventLog, records: Sequence[Recorded]) -> int:
    """Put commits behind whatever their aggregates have; returns the last position."""
    position = 0
    for record in records:
        last = await log.last(record.ref)
        position = await log.append(record, expected=last.position if last else 0)
    return position


async def until(holds: Callable[[], Awaitable[bool]], within: float = 15.0) -> None:
    """Poll until it holds."""
    async with asyncio.timeout(within):
        while not await holds():  # noqa: ASYNC110 - rows have no event to wait for
            await asyncio.sleep(0.01)


async def reached(runner: ProjectionRunner, position: int) -> None:
    """Wait until the runner stands at a position."""

    async def there() -> bool:
        return runner.position >= position

    await until(there)


@asynccontextmanager
async def running(runner: ProjectionRunner) -> AsyncIterator["asyncio.Task[None]"]:
    """Run it, and cancel it at the end."""
    task = asyncio.create_task(runner.run())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def same_rows(pool: Pool, runs: Sequence[Run]) -> None:
    """Check that every run's row is what the aggregate says."""
    for run in runs:
        row = await get_run(pool, TENANT, run.ref.aggregate_id)
        assert row is not None
        assert row.view() == run.view()


async def test_it_follows_the_log_live(dsn: str, pool: Pool, stream_log: JetStreamLog) -> None:
    script = Script().play(WHOLE)
    runner = ProjectionRunner(stream_log, dsn)
    async with running(runner):
        await asyncio.wait_for(runner.caught_up.wait(), 10)
        for record in script.records:
            await reached(runner, await append(stream_log, [record]))
    await same_rows(pool, script.folded())
    steps = await get_steps(pool, TENANT, script.records[0].ref.aggregate_id)
    assert [(s.kind, s.status) for s in steps] == [("model", "ok"), ("tool", "ok")]
    head = await stream_log.head()
    assert {p.lag(head) for p in await positions(pool)} == {0}


async def test_killed_between_batches_it_resumes_exactly_once(dsn: str, pool: Pool) -> None:
    log, script = MemoryLog(), Script().play(WHOLE)
    for record in script.records:
        position = await append(log, [record])
        runner = ProjectionRunner(log, dsn)
        async with running(runner):
            await reached(runner, position)
    await same_rows(pool, script.folded())


async def test_a_second_runner_stops(dsn: str) -> None:
    log, script = MemoryLog(), Script().play(WHOLE)
    first, second = (ProjectionRunner(log, dsn, pace_s=0) for _ in range(2))
    async with running(first) as one, running(second) as two:
        await asyncio.gather(first.caught_up.wait(), second.caught_up.wait())
        await append(log, script.records)
        done, going = await asyncio.wait({one, two}, timeout=10, return_when="FIRST_COMPLETED")
        assert [type(task.exception()) for task in done] == [PositionTakenError]
        alive = first if one in going else second
        await reached(alive, len(script.records))


async def test_a_log_that_is_older_than_the_rows_is_refused(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, script = MemoryLog(), Script().play(WHOLE)
    await append(log, script.records)
    runner = ProjectionRunner(log, dsn)
    async with running(runner):
        await reached(runner, len(script.records))
    with pytest.raises(LogBehindReadModelError, match="the log is older than its read model"):
        await ProjectionRunner(MemoryLog(), dsn).run()
    # A log that is put back while the projector is at work is found out too.
    monkeypatch.setattr(runner_module, "WATCH_S", 0.01)
    runner = ProjectionRunner(log, dsn)
    async with running(runner) as task:
        await asyncio.wait_for(runner.caught_up.wait(), 10)
        log._records.clear()
        with pytest.raises(LogBehindReadModelError):
            await asyncio.wait_for(task, 10)


async def test_tables_of_another_version_are_refused(dsn: str) -> None:
    log = MemoryLog()
    runner = ProjectionRunner(log, dsn)
    async with running(runner):
        await asyncio.wait_for(runner.caught_up.wait(), 10)
    async with await connect_postgres(dsn, LIVE, "test") as conn:
        await conn.execute("UPDATE projections SET version = 0 WHERE name = 'agents'")
    with pytest.raises(ProjectionVersionError):
        await ProjectionRunner(log, dsn).run()


async def test_it_outlives_crashes_of_postgres_and_of_the_broker(
    own_nats_server: EmbeddedNats, own_postgres_server: EmbeddedPostgres
) -> None:
    script = Script().play(
        [Move(n % 4, a, 0.2, "x", False) for a in (1, 0, 2, 3) for n in range(4)]
    )
    connection = await connect(own_nats_server.url, "test")
    await ensure_log(connection, expect_log=False)
    log, pool = JetStreamLog(connection), make_pool(own_postgres_server.dsn)
    runner = ProjectionRunner(log, own_postgres_server.dsn)
    await pool.open()
    async with running(runner):
        await reached(runner, await append(log, script.records[:4]))
        await asyncio.to_thread(own_postgres_server.kill)
        position = await append(log, script.records[4:8])
        await asyncio.to_thread(own_postgres_server.start)
        await reached(runner, position)
        await asyncio.to_thread(own_nats_server.restart)
        await reached(runner, await append(log, script.records[8:]))
        await same_rows(pool, script.folded())
    await pool.close()
    await bounded_close(connection)
