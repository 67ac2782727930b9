"""Lists of runs: order, filters, pages, and what a broken database looks like."""

import re
from collections.abc import Callable

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentos.domain.errors import DependencyUnavailableError, InvalidRequestError
from agentos.domain.times import to_ms
from agentos.projections.all import make_projectors
from agentos.projections.queries import Pool, make_pool
from agentos.projections.runs.queries import RunFilters, get_run, list_runs
from agentos.projections.runs.row import COLUMNS, NAMES, READ_COLUMNS, RunRow
from agentos.projections.schema import LIVE, connect, create_tables
from agentos.projections.writer import Writer
from tests.infra.embedded import EmbeddedPostgres
from tests.projections.script import TENANT, Move, Script

OTHER = "tnt_other"


def history(tenant_id: str, prefix: str) -> Script:
    """Return 40 runs in all states, every second with labels."""
    moves = []
    for n in range(40):
        moves.append(Move(n, 1 + n % 2, 0.2, str(n % 3), False))
        if n % 4:
            moves.append(Move(n, 0, 0.2, "", False))
        if n % 4 == 3:
            moves.append(Move(n, 10, 0.2, "done", False))
    return Script(tenant_id, prefix).play(moves)


@pytest.fixture
async def script(dsn: str) -> Script:
    """Two tenants' histories, projected; returns the first's."""
    ours, theirs = history(TENANT, "a"), history(OTHER, "b")
    async with await connect(dsn, LIVE, "test") as conn:
        projectors = make_projectors()
        await create_tables(conn, LIVE, projectors)
        writer = Writer(conn, projectors)
        await writer.load()
        for record in theirs.records:
            ours.write(record)
        await writer.write(ours.records)
    return ours


filters = st.builds(
    RunFilters,
    status=st.sampled_from([None, "queued", "running", "completed", "x"]),
    agent_id=st.sampled_from([None, "agt_0", "agt_1"]),
    created_after=st.sampled_from([None, 1_795_255_336_200]),
    created_before=st.sampled_from([None, 1_795_255_336_400]),
    labels=st.lists(
        st.sampled_from([("k", "0"), ("k", "1"), ("text 0", "v"), ("k", "none")]), max_size=2
    ).map(tuple),
)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(wanted=filters, limit=st.integers(1, 15))
async def test_pages_hold_what_fits_newest_first_and_nothing_twice(
    script: Script, pool: Pool, wanted: RunFilters, limit: int
) -> None:
    found, cursor = [], None
    while True:
        page = await list_runs(pool, TENANT, wanted, limit, cursor)
        found += [row.view() for row in page.runs]
        cursor = page.next_cursor
        if cursor is None:
            break
        assert len(page.runs) == limit
    views = [run.view() for run in script.runs.values() if fits(wanted)(run.view())]
    newest = sorted(views, key=lambda v: (v["created_at"], v["run_id"]), reverse=True)
    assert found == newest


def fits(wanted: RunFilters) -> Callable[[dict[str, object]], bool]:
    """Return the filters as a predicate on views."""

    def check(view: dict[str, object]) -> bool:
        labels = view.get("labels", {})
        created = to_ms(str(view["created_at"]))
        return (
            wanted.status in (None, view["status"])
            and wanted.agent_id in (None, view["agent_id"])
            and (wanted.created_after is None or created > wanted.created_after)
            and (wanted.created_before is None or created < wanted.created_before)
            and all(isinstance(labels, dict) and labels.get(k) == v for k, v in wanted.labels)
        )

    return check


async def test_another_tenants_run_is_not_there(script: Script, pool: Pool) -> None:
    run_id = script.runs[0].ref.aggregate_id
    assert await get_run(pool, TENANT, run_id) is not None
    assert await get_run(pool, OTHER, run_id) is None


async def test_another_tenants_cursor_is_refused(script: Script, pool: Pool) -> None:
    page = await list_runs(pool, TENANT, RunFilters(), 5)
    with pytest.raises(InvalidRequestError):
        await list_runs(pool, OTHER, RunFilters(), 5, page.next_cursor)
    with pytest.raises(InvalidRequestError):
        await list_runs(pool, TENANT, RunFilters(status="queued"), 5, page.next_cursor)


async def test_a_text_that_no_column_holds_is_an_invalid_request(
    script: Script, pool: Pool
) -> None:
    with pytest.raises(InvalidRequestError):
        await list_runs(pool, TENANT, RunFilters(status="\x00"), 5)


def test_the_columns_are_the_rows_fields() -> None:
    assert tuple(COLUMNS.split(", ")) == NAMES
    assert tuple(re.findall(r"r\.(\w+)", READ_COLUMNS)) == NAMES
    assert len(RunRow.__dataclass_fields__) == len(NAMES)


async def test_without_its_tables_the_read_model_is_unavailable(dsn: str) -> None:
    async with make_pool(dsn) as pool:
        with pytest.raises(DependencyUnavailableError) as caught:
            await get_run(pool, TENANT, "run_1")
    assert caught.value.details["dependency"] == "postgres"
    assert isinstance(caught.value.__cause__, psycopg.Error)


async def test_a_pool_outlives_a_crash_of_postgres(own_postgres_server: EmbeddedPostgres) -> None:
    dsn = own_postgres_server.dsn
    async with await connect(dsn, LIVE, "test") as conn:
        await create_tables(conn, LIVE, make_projectors())
        await conn.execute("CHECKPOINT")  # its commits do not wait for the disk
    async with make_pool(dsn) as pool:
        assert await get_run(pool, TENANT, "run_1") is None
        own_postgres_server.kill()
        with pytest.raises(DependencyUnavailableError):
            await get_run(pool, TENANT, "run_1")
        own_postgres_server.start()
        assert await get_run(pool, TENANT, "run_1") is None
