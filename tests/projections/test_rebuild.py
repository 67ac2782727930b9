"""A rebuild gives the same rows, beside a live projector, and mends rows that are wrong."""

import asyncio
from typing import Any, LiteralString

import pytest

from agentos.infra.jetstream.log import JetStreamLog
from agentos.infra.memory.log import MemoryLog
from agentos.projections import rebuild as rebuilding
from agentos.projections.all import PROJECTIONS
from agentos.projections.errors import RebuildRunningError, SwitchBlockedError
from agentos.projections.projector import Connection
from agentos.projections.queries import Pool, positions
from agentos.projections.rebuild import REBUILD_LOCK, Progress, rebuild
from agentos.projections.runner import ProjectionRunner
from agentos.projections.runs.queries import RunFilters, list_runs
from agentos.projections.schema import LIVE, connect
from tests.projections.script import TENANT, Move, Script
from tests.projections.test_runner import append, reached, running, same_rows

ALL = list(PROJECTIONS)


def script_of(runs: int, tenant_id: str = TENANT) -> Script:
    """Return whole runs, one after the other."""
    moves = [
        Move(n, action, 0.2, str(n), False) for n in range(runs) for action in (1, 0, 2, 3, 10)
    ]
    return Script(tenant_id).play(moves)


def silent(_: Progress) -> None:
    """Report nothing."""


async def test_rows_are_identical_and_the_live_projector_goes_on(
    dsn: str, pool: Pool, stream_log: JetStreamLog
) -> None:
    script = script_of(60)
    cut = len(script.records) - 25
    seen: list[Progress] = []
    runner = ProjectionRunner(stream_log, dsn)
    async with running(runner):
        await reached(runner, await append(stream_log, script.records[:cut]))
        done = await rebuild(stream_log, dsn, ALL, seen.append)
        assert done.identical is True
        assert [digest.rows for digest in done.after][1:3] == [55, 55]
        assert seen[-1].position == seen[-1].target == done.position
        await reached(runner, await append(stream_log, script.records[cut:]))
        assert (await rebuild(stream_log, dsn, ALL, silent)).identical is True
        await reached(runner, await stream_log.head())
    await same_rows(pool, script.folded())


async def test_it_switches_while_the_log_grows(
    dsn: str, pool: Pool, stream_log: JetStreamLog
) -> None:
    script = script_of(80)
    runner = ProjectionRunner(stream_log, dsn, pace_s=0)

    async def grow() -> None:
        await append(stream_log, script.records[100:])

    async with running(runner):
        await reached(runner, await append(stream_log, script.records[:100]))
        growing = asyncio.create_task(grow())
        for _ in range(3):
            assert (await rebuild(stream_log, dsn, ALL, silent)).identical is True
        await growing
        await reached(runner, await stream_log.head())
    await same_rows(pool, script.folded())


async def test_wrong_rows_are_found_and_mended(dsn: str, pool: Pool) -> None:
    log, script = MemoryLog(), script_of(3)
    await append(log, script.records)
    runner = ProjectionRunner(log, dsn)
    async with running(runner):
        await reached(runner, len(script.records))
    async with await connect(dsn, LIVE, "test") as conn:
        await conn.execute("UPDATE runs SET tokens_total = 7")
    done = await rebuild(log, dsn, ["runs"], silent)
    assert done.identical is False
    await same_rows(pool, script.folded())


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE projections SET version = 0",
        "UPDATE projections SET position = 999999",
        "UPDATE projections SET version = 0; DROP TABLE run_labels",
    ],
)
async def test_what_a_projector_refuses_a_rebuild_mends(
    dsn: str, pool: Pool, change: LiteralString
) -> None:
    log, script = MemoryLog(), script_of(3)
    await append(log, script.records)
    runner = ProjectionRunner(log, dsn)
    async with running(runner):
        await reached(runner, len(script.records))
    async with await connect(dsn, LIVE, "test") as conn:
        await conn.execute(change)
    done = await rebuild(log, dsn, ALL, silent)
    assert (done.identical, done.position) == (None, len(script.records))
    async with running(ProjectionRunner(log, dsn)) as task:
        more = Script(prefix="m").play([Move(9, 1, 0.2, "y", False)])
        await append(log, more.records)
        assert not task.done()
    await same_rows(pool, script.folded())


async def test_from_nothing_it_goes_to_the_end_of_the_log(dsn: str, pool: Pool) -> None:
    log, script = MemoryLog(), script_of(3)
    await append(log, script.records)
    done = await rebuild(log, dsn, ALL, silent)
    assert (done.identical, done.position) == (None, len(script.records))
    assert {p.position for p in await positions(pool)} == {len(script.records)}
    assert len((await list_runs(pool, TENANT, RunFilters(), 10)).runs) == 3


async def test_one_rebuild_at_a_time(dsn: str) -> None:
    async with await connect(dsn, LIVE, "test") as conn:
        await conn.execute("SELECT pg_advisory_lock(%s)", (REBUILD_LOCK,))
        with pytest.raises(RebuildRunningError):
            await rebuild(MemoryLog(), dsn, ALL, silent)


async def test_readers_are_let_pass_while_a_long_one_is_waited_for(
    dsn: str, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, script = MemoryLog(), script_of(3)
    await append(log, script.records)
    await rebuild(log, dsn, ALL, silent)
    async with await connect(dsn, LIVE, "test-long") as long:
        async with long.transaction():
            await long.execute("SELECT count(*) FROM runs")
            task = asyncio.create_task(rebuild(log, dsn, ALL, silent))
            async with await connect(dsn, LIVE, "test-watch") as watch:
                await waits_or_ends(watch, task)
            # Behind one that waits for the lock for ever, no read would come to an end.
            async with asyncio.timeout(20):
                for _ in range(5):
                    assert len((await list_runs(pool, TENANT, RunFilters(), 10)).runs) == 3
            assert not task.done()
        assert (await task).identical is True
        monkeypatch.setattr(rebuilding, "LOCK_TRIES", 2)
        async with long.transaction():
            await long.execute("SELECT count(*) FROM runs")
            with pytest.raises(SwitchBlockedError, match="pg_stat_activity"):
                await rebuild(log, dsn, ALL, silent)
    assert len((await list_runs(pool, TENANT, RunFilters(), 10)).runs) == 3
    assert (await rebuild(log, dsn, ALL, silent)).identical is True


async def waits_or_ends(watch: Connection, task: asyncio.Task[Any]) -> None:
    """Wait until a rebuild waits for a lock, or is done."""
    asked = (
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE application_name = 'agentos-rebuild' AND wait_event_type = 'Lock'"
    )
    async with asyncio.timeout(60):
        while not task.done():
            cursor = await watch.execute(asked)
            if await cursor.fetchone() != (0,):
                return
            await asyncio.sleep(0.01)
