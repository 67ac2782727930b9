"""Rows do not depend on how the log is cut; the position rules; nothing is skipped."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from agentos.domain.log import Recorded, void_commit
from agentos.domain.run.run import run_ref
from agentos.projections.agents.queries import list_agents
from agentos.projections.all import make_projectors
from agentos.projections.digest import TableDigest, digest_tables
from agentos.projections.errors import (
    PoisonRecordError,
    PositionTakenError,
    ProjectionVersionError,
    RebuiltError,
)
from agentos.projections.model_calls.projector import DAYS
from agentos.projections.projector import Connection
from agentos.projections.queries import Pool, positions
from agentos.projections.runs.queries import get_run
from agentos.projections.schema import LIVE, connect, create_tables
from agentos.projections.writer import Writer
from tests.projections.script import TENANT, Move, Script, cut, cuts, moves

TABLES = ("run_labels", "runs", "run_steps", "agents")
WHOLE = [Move(0, action, 0.2, "x", False) for action in (1, 0, 2, 3, 4, 6, 10)]
one_test_database = settings(
    max_examples=50,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


async def fresh(dsn: str, model_calls_days: int = DAYS) -> tuple[Connection, Writer]:
    """Return a writer on empty tables."""
    conn = await connect(dsn, LIVE, "test")
    await conn.execute("DROP SCHEMA IF EXISTS agentos CASCADE")
    return conn, await opened(conn, model_calls_days)


async def opened(conn: Connection, model_calls_days: int = DAYS) -> Writer:
    """Return a writer on the tables that are there."""
    projectors = make_projectors(model_calls_days=model_calls_days)
    await create_tables(conn, LIVE, projectors)
    writer = Writer(conn, projectors)
    await writer.load()
    return writer


async def digests_after(dsn: str, batches: list[list[Recorded]]) -> list[TableDigest]:
    """Return the digests of the rows that the batches make."""
    conn, writer = await fresh(dsn)
    async with conn:
        for batch in batches:
            await writer.write(batch)
        return await digest_tables(conn, LIVE, TABLES)


@one_test_database
@given(moves=moves, sizes=cuts)
async def test_rows_are_the_aggregates_views_however_the_log_is_cut(
    dsn: str, pool: Pool, moves: list[Move], sizes: list[int]
) -> None:
    script = Script().play(moves)
    one_by_one = await digests_after(dsn, [[record] for record in script.records])
    assert one_by_one == await digests_after(dsn, cut(script.records, sizes))
    for run in script.folded():
        row = await get_run(pool, TENANT, run.ref.aggregate_id)
        assert row is not None
        assert (row.view(), row.position, row.sequence) == (run.view(), run.position, run.sequence)
    agents = (await list_agents(pool, TENANT, 200, None)).agents
    expected = sorted(script.agents.values(), key=lambda agent: agent.ref.aggregate_id)
    assert [(a.view(), a.position) for a in agents] == [(e.view(), e.position) for e in expected]


async def test_a_restarted_projector_goes_on_where_the_position_stands(dsn: str) -> None:
    script = Script().play(WHOLE)
    whole = await digests_after(dsn, [script.records])
    conn, writer = await fresh(dsn)
    async with conn:
        for record in script.records:
            await writer.write([record])
            writer = await opened(conn)
            await writer.write(script.records[: script.records.index(record) + 1])
        assert await digest_tables(conn, LIVE, TABLES) == whole


async def test_a_second_projector_fails_and_changes_nothing(dsn: str) -> None:
    script = Script().play(WHOLE)
    conn, first = await fresh(dsn)
    async with conn, await connect(dsn, LIVE, "test") as other:
        second = await opened(other)
        await first.write(script.records[:3])
        with pytest.raises(PositionTakenError, match="another projector is at work"):
            await second.write(script.records[:2])
        await first.write(script.records[3:])
        assert (await digest_tables(conn, LIVE, ("runs",)))[0].rows == 1


async def test_a_rebuilt_table_is_noticed(dsn: str) -> None:
    script = Script().play(WHOLE)
    conn, writer = await fresh(dsn)
    async with conn:
        await conn.execute("UPDATE projections SET build = build + 1 WHERE name = 'runs'")
        with pytest.raises(RebuiltError):
            await writer.write(script.records)


async def test_tables_of_another_version_are_refused(dsn: str) -> None:
    conn, writer = await fresh(dsn)
    async with conn:
        await conn.execute("UPDATE projections SET version = 99 WHERE name = 'run_steps'")
        with pytest.raises(ProjectionVersionError, match="agentos replay rebuild"):
            await writer.load()


def gap(records: list[Recorded]) -> Recorded:
    """A commit that does not follow the last."""
    return replace(records[-1], first_sequence=records[-1].first_sequence + 5)


def unknown(records: list[Recorded]) -> Recorded:
    """A commit of a type that nobody knows."""
    return replace(records[-1], types=("agentos.run.vanished",) * len(records[-1].types))


def unreadable(records: list[Recorded]) -> Recorded:
    """A commit whose body is no JSON."""
    return replace(records[-1], body=b"{")


def without_start(records: list[Recorded]) -> Recorded:
    """A commit of a run whose first event is missing."""
    return replace(records[-1], ref=run_ref(TENANT, "run_other"))


@pytest.mark.parametrize("poison", [gap, unknown, unreadable, without_start])
async def test_a_record_that_does_not_fold_stops_the_projector(dsn: str, poison: Any) -> None:
    script = Script().play(WHOLE)
    conn, writer = await fresh(dsn)
    async with conn:
        await writer.write(script.records[:-1])
        bad = poison(script.records)
        with pytest.raises(PoisonRecordError, match=f"at position {bad.position} "):
            await writer.write([bad])
        assert writer.position == script.records[-2].position


async def test_what_postgres_refuses_is_narrowed_down_to_its_record(dsn: str, pool: Pool) -> None:
    moves = [Move(0, a, 0.5, "x", False) for a in (1, 0, 2, 3, 4)]
    script = Script().play(moves)
    bad = script.records[3]
    huge = replace(bad, body=bad.body.replace(b'"total_tokens":501', b'"total_tokens":%d' % 2**70))
    conn, writer = await fresh(dsn)
    async with conn:
        with pytest.raises(PoisonRecordError, match=f"at position {bad.position} .*PostgreSQL"):
            await writer.write([*script.records[:3], huge, script.records[4]])
    assert {p.position for p in await positions(pool)} == {script.records[2].position}


async def test_void_commits_and_other_kinds_only_move_the_position(dsn: str) -> None:
    script = Script()
    script.write(void_commit(run_ref(TENANT, "run_closed"), script.new_id))
    script.write(
        replace(Script().play(WHOLE).records[0], ref=run_ref(TENANT, "x")._replace(kind="quota"))
    )
    conn, writer = await fresh(dsn)
    async with conn:
        await writer.write(script.records)
        assert writer.position == script.records[-1].position
        assert [d.rows for d in await digest_tables(conn, LIVE, TABLES)] == [0, 0, 0, 0]
