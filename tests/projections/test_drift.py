"""Rows that are not what the log says are found, whatever is wrong with them, and nothing else."""

import asyncio
import logging
import random
from collections.abc import Sequence
from typing import Any, LiteralString

import pytest

from agentos.domain.subjects import StreamRef
from agentos.infra.jetstream.log import JetStreamLog
from agentos.projections.drift import SCRATCH, Drift, DriftCheck
from agentos.projections.projector import Connection
from agentos.projections.queries import Pool
from agentos.projections.rebuild import Rebuilt, rebuild
from agentos.projections.runner import ProjectionRunner
from agentos.projections.schema import LIVE, connect
from agentos.projections.writer import read_places
from tests.projections.script import Move, Script
from tests.projections.test_rebuild import ALL, silent, waits_or_ends
from tests.projections.test_runner import append, reached, running

RUNS = [Move(n, action, 0.2, str(n), False) for n in range(6) for action in (1, 0, 2, 3, 10)]
WRONG: dict[str, LiteralString] = {
    "a value": "UPDATE agentos.runs SET cost_usd = cost_usd + 1",
    "a status": "UPDATE agentos.runs SET status = 'failed'",
    "a text": 'UPDATE agentos.runs SET output = \'{"type": "text", "text": "lie"}\'',
    "a row too few": "DELETE FROM agentos.runs",
    "a label too few": "DELETE FROM agentos.run_labels",
    "a step": "UPDATE agentos.run_steps SET duration_ms = duration_ms + 1",
    "no steps": "DELETE FROM agentos.run_steps",
}


async def settled(log: JetStreamLog, dsn: str) -> None:
    """Write runs and project them."""
    runner = ProjectionRunner(log, dsn)
    async with running(runner):
        await reached(runner, await append(log, Script().play(RUNS).records))


async def checked(log: JetStreamLog, dsn: str, seconds: float = 1.0) -> tuple[int, list[Drift]]:
    """Let the check go on for a while; return how much it looked at, and what it found."""
    found: list[Drift] = []
    check = DriftCheck(log, dsn, found.append, every_s=0.01, chance=random.Random(1))
    task = asyncio.create_task(check.run())
    async with asyncio.timeout(30):
        while check.checked < 40 and not (found and check.checked > 5):
            assert not task.done(), task
            await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return check.checked, found


async def test_rows_as_they_should_be_are_no_drift(
    dsn: str, pool: Pool, stream_log: JetStreamLog
) -> None:
    await settled(stream_log, dsn)
    looked, found = await checked(stream_log, dsn)
    assert looked >= 40
    assert found == []
    async with pool.connection() as conn:
        cursor = await conn.execute(f"SELECT count(*) FROM {SCRATCH}.runs")  # noqa: S608 - ours
        assert await cursor.fetchone() == (0,)


@pytest.mark.parametrize("wrong", WRONG)
async def test_a_wrong_row_is_an_alarm(
    wrong: str, dsn: str, pool: Pool, stream_log: JetStreamLog, caplog: pytest.LogCaptureFixture
) -> None:
    await settled(stream_log, dsn)
    async with pool.connection() as conn:
        cursor = await conn.execute(WRONG[wrong])
        assert cursor.rowcount
    with caplog.at_level(logging.ERROR):
        _, found = await checked(stream_log, dsn)
    assert found
    assert all(f"{LIVE}.{drift.table}" in WRONG[wrong] for drift in found)
    assert "has drifted" in caplog.text
    assert "agentos replay rebuild" in caplog.text


async def test_it_looks_while_the_projector_writes(
    dsn: str, pool: Pool, stream_log: JetStreamLog
) -> None:
    records = Script().play(RUNS).records
    runner = ProjectionRunner(stream_log, dsn, pace_s=0)
    found: list[Drift] = []
    check = DriftCheck(stream_log, dsn, found.append, every_s=0, sample=3)
    async with running(runner):
        await append(stream_log, records[:4])
        task = asyncio.create_task(check.run())
        for at in range(4, len(records), 3):
            position = await append(stream_log, records[at : at + 3])
            await asyncio.sleep(0.02)
        await reached(runner, position)
        async with asyncio.timeout(30):
            while check.checked < 40:
                assert not task.done(), task
                await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert found == []


async def test_what_is_written_between_its_two_looks_is_no_drift(
    dsn: str, pool: Pool, stream_log: JetStreamLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = Script().play(RUNS).records
    of_one = [record for record in records if record.ref == records[0].ref]
    assert len(of_one) > 2
    runner = ProjectionRunner(stream_log, dsn, pace_s=0)
    found: list[Drift] = []
    check = DriftCheck(stream_log, dsn, found.append, every_s=0, sample=1)
    read, later = stream_log.read, of_one[1:]

    async def slow_read(ref: StreamRef) -> object:
        got = await read(ref)
        if later:  # the projector is faster than the check
            await reached(runner, await append(stream_log, [later.pop(0)]))
        return got

    monkeypatch.setattr(stream_log, "read", slow_read)
    async with running(runner):
        await reached(runner, await append(stream_log, of_one[:1]))
        task = asyncio.create_task(check.run())
        async with asyncio.timeout(30):
            while later or check.checked < 10:
                assert not task.done(), task
                await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert found == []


async def test_it_waits_for_tables_that_are_not_made_yet(
    dsn: str, pool: Pool, stream_log: JetStreamLog
) -> None:
    position = await append(stream_log, Script().play(RUNS).records)
    found: list[Drift] = []
    check = DriftCheck(stream_log, dsn, found.append, every_s=0.01)
    task = asyncio.create_task(check.run())
    async with asyncio.timeout(30):
        while not check.checked:  # noqa: ASYNC110 - counted before it looks
            await asyncio.sleep(0.01)
    runner = ProjectionRunner(stream_log, dsn, pace_s=0)
    async with running(runner):
        await reached(runner, position)
        before = check.checked
        async with asyncio.timeout(30):
            while check.checked < before + 10:
                assert not task.done(), task
                await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert found == []


def test_it_is_counted_as_gateways_add_up() -> None:
    from pydantic_core import from_json

    from agentos.projections.metrics import ProjectorMetrics

    metrics = ProjectorMetrics()
    metrics.drifted(Drift("runs", "runs", StreamRef("tnt_a", "run", "run_1"), 3))
    ((name, kind, _, samples),) = from_json(metrics.snapshot())
    assert (name, kind) == ("agentos_projection_drift", "counter")
    total = ["agentos_projection_drift_total", {"projection": "runs"}, 1.0]
    assert total in samples


async def test_a_rebuild_in_the_middle_of_a_look_is_no_drift(
    dsn: str, pool: Pool, stream_log: JetStreamLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    await settled(stream_log, dsn)
    found: list[Drift] = []
    check = DriftCheck(stream_log, dsn, found.append, every_s=0.01, chance=random.Random(1))
    read, tasks = read_places, list[asyncio.Task[Rebuilt]]()

    async def read_and_rebuild(conn: Connection, names: Sequence[str]) -> Any:
        places = await read(conn, names)
        if not tasks:
            tasks.append(asyncio.create_task(rebuild(stream_log, dsn, ALL, silent)))
            async with await connect(dsn, LIVE, "test-watch") as watch:
                await waits_or_ends(watch, tasks[0])
        return places

    monkeypatch.setattr("agentos.projections.drift.read_places", read_and_rebuild)
    task = asyncio.create_task(check.run())
    async with asyncio.timeout(60):
        while check.checked < 10:
            assert not task.done(), task
            await asyncio.sleep(0.01)
    assert (await tasks[0]).identical is True
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert found == []
