"""Usage on real PostgreSQL: sums that do not depend on cuts, pages, and one call's row."""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentos.domain.admission.windows import window_start
from agentos.domain.auth import Principal
from agentos.domain.envelope import NO_TRACE, Origin
from agentos.domain.errors import InvalidRequestError
from agentos.domain.log import Recorded, make_commit
from agentos.domain.run.events import TokenUsage
from agentos.domain.usage.usage import Usage, UsageRecorded, usage_ref
from agentos.infra.memory.log import MemoryLog
from agentos.projections.all import make_projectors
from agentos.projections.digest import TableDigest, digest_tables
from agentos.projections.errors import PoisonRecordError
from agentos.projections.model_calls.projector import DAYS, newest_hour
from agentos.projections.model_calls.queries import get_model_call
from agentos.projections.queries import Pool
from agentos.projections.rebuild import rebuild
from agentos.projections.runner import ProjectionRunner
from agentos.projections.schema import LIVE
from agentos.projections.usage_by_window.queries import UsageFilters, UsageRow, get_usage
from tests.domain.given import Ids, moment, recorded
from tests.projections.script import Move, Script, cut, cuts
from tests.projections.test_runner import append, reached, running
from tests.projections.test_writer import fresh

HOUR = 3_600_000
T0 = 1_795_255_200_000 - 1_795_255_200_000 % HOUR
EVER = UsageFilters("day", 0, T0 + 10**10)
NAMES = ("usage_by_window", "model_calls")
TABLES = (*NAMES, "model_calls_kept")
DAY = 24 * HOUR
one_test_database = settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


class Meter:
    """Writes usage as the handlers do, at whatever time."""

    def __init__(self) -> None:
        self.usages: dict[str, Usage] = {}
        self.records: list[Recorded] = []
        self.new_id = Ids()

    def write(self, *calls: UsageRecorded, at: int = T0, tenant_id: str = "tnt_a") -> None:
        """Write calls as one commit."""
        usage = self.usages.setdefault(tenant_id, Usage(usage_ref(tenant_id)))
        who = [Origin(NO_TRACE, Principal(principal_id=f"usr_{c.operation}")) for c in calls]
        events = usage.record(list(zip(calls, who, strict=True)), moment(at, self.new_id))
        commit = make_commit(usage.ref, events, self.new_id)
        self.records.append(recorded(commit, len(self.records) + 1))
        usage.fold([self.records[-1]])


def call(request_id: str = "req_1", **more: Any) -> UsageRecorded:
    """Return a call's usage."""
    fields: dict[str, Any] = {
        "request_id": request_id,
        "operation": "chat",
        "model_ref": "tier:fast",
        "backend": "openai",
        "model": "gpt-x",
        "status": "ok",
        "usage": TokenUsage(input_tokens=10, output_tokens=5, total_tokens=15),
        "cost_usd": 0.000123,
    }
    return UsageRecorded(**{**fields, **more})


async def project(dsn: str, batches: list[list[Recorded]], days: int = DAYS) -> list[TableDigest]:
    """Project batches onto empty tables."""
    conn, writer = await fresh(dsn, days)
    async with conn:
        for batch in batches:
            await writer.write(batch)
        return await digest_tables(conn, LIVE, TABLES)


async def rows_of(pool: Pool, filters: UsageFilters = EVER) -> list[UsageRow]:
    """Return the whole usage, page by page."""
    rows: list[UsageRow] = []
    cursor = None
    while True:
        page = await get_usage(pool, "tnt_a", filters, 2, cursor)
        rows += page.rows
        if (cursor := page.next_cursor) is None:
            return rows


calls = st.lists(
    st.builds(
        call,
        st.sampled_from(["req_1", "req_2", "req_\x00"]),
        operation=st.sampled_from(["chat", "embed"]),
        model=st.sampled_from(["", "a", "b\x00"]),
        status=st.sampled_from(["ok", "error", "blocked", "refused", "interrupted"]),
        agent_id=st.sampled_from([None, "agt_1", "agt_2"]),
        cost_usd=st.integers(0, 10**9).map(lambda micro: micro / 10**6),
        stands_for=st.sampled_from([None, 7]),
    ),
    max_size=12,
)


@one_test_database
@given(calls=calls, sizes=cuts, apart=st.integers(0, HOUR))
async def test_sums_are_exact_however_the_log_is_cut(
    dsn: str, pool: Pool, calls: list[UsageRecorded], sizes: list[int], apart: int
) -> None:
    meter = Meter()
    for n, one in enumerate(calls):
        meter.write(one, one, at=T0 + n * apart)
    one_by_one = await project(dsn, [[record] for record in meter.records])
    assert one_by_one == await project(dsn, cut(meter.records, sizes))
    rows = await rows_of(pool, replace(EVER, window="hour", group_by=("model", "principal_id")))
    assert len({row[:4] for row in rows}) == len(rows)
    assert sum(r.micro_usd for r in rows) == 2 * sum(round(c.cost_usd * 10**6) for c in calls)
    assert sum(r.calls for r in rows) == 2 * sum(c.stands_for or 1 for c in calls)
    refused = [c for c in calls if c.status == "refused"]
    assert sum(r.refused for r in rows) == 2 * sum(c.stands_for or 1 for c in refused)
    last = {c.request_id: c for c in calls}
    for request_id, one in last.items():
        found = await get_model_call(pool, "tnt_a", request_id.replace("\x00", "\ufffd"))
        assert found is not None
        ours = one.model_dump(mode="json")
        assert {name: found[name] for name in ours} == ours


async def test_windows_filters_and_pages(dsn: str, pool: Pool) -> None:
    meter = Meter()
    midnight = window_start("day", T0)
    for n in range(6):
        at = midnight + n * 12 * HOUR
        meter.write(call(agent_id=f"agt_{n % 2}"), call(operation="embed", model="e"), at=at)
    meter.write(call(), tenant_id="tnt_b", at=midnight + 60 * HOUR)
    await project(dsn, [meter.records])
    by_day = await rows_of(pool, replace(EVER, group_by=()))
    assert [(row.start, row.calls) for row in by_day] == [
        (midnight + day * 24 * HOUR, 4) for day in (2, 1, 0)
    ]
    by_model = await rows_of(pool, EVER)
    assert [(r.model, r.agent_id, r.calls) for r in by_model[:3]] == [
        ("openai/gpt-x", "agt_1", 1),
        ("openai/gpt-x", "agt_0", 1),
        ("openai/e", "", 2),
    ]
    (of_agent,) = await rows_of(
        pool, UsageFilters("day", midnight, midnight + 24 * HOUR, agent_id="agt_1")
    )
    assert (of_agent.input_tokens, of_agent.output_tokens, of_agent.micro_usd) == (10, 5, 123)
    of_model = await rows_of(pool, replace(EVER, model="openai/e", principal_id="usr_embed"))
    assert [row.calls for row in of_model] == [2, 2, 2]
    months = await rows_of(pool, replace(EVER, window="month", group_by=()))
    assert sum(row.calls for row in months) == 12
    page = await get_usage(pool, "tnt_a", EVER, 1)
    with pytest.raises(InvalidRequestError):
        await get_usage(pool, "tnt_b", EVER, 1, page.next_cursor)
    with pytest.raises(InvalidRequestError):
        await get_usage(pool, "tnt_a", replace(EVER, window="hour"), 1, page.next_cursor)


async def test_runs_stand_beside_the_models(dsn: str, pool: Pool) -> None:
    script = Script("tnt_a").play([Move(0, action, 0.2, "x", False) for action in (1, 0, 4, 6)])
    meter = Meter()
    meter.write(call(agent_id="agt_0"), at=1_795_255_336_000)
    meter.records = [replace(meter.records[0], position=script.records[-1].position + 1)]
    await project(dsn, [script.records, meter.records])
    (whole,) = await rows_of(pool, replace(EVER, group_by=()))
    assert (whole.runs, whole.tool_calls, whole.calls) == (1, 1, 1)
    (agent,) = await rows_of(pool, replace(EVER, group_by=("agent_id",)))
    assert (agent.agent_id, agent.runs, agent.calls) == ("agt_0", 1, 1)
    of_model, of_runs = await rows_of(pool, EVER)
    assert (of_model.model, of_model.runs, of_model.calls) == ("openai/gpt-x", 0, 1)
    assert (of_runs.model, of_runs.runs, of_runs.calls) == ("", 1, 0)


async def test_one_call_is_its_own_tenants(dsn: str, pool: Pool) -> None:
    meter = Meter()
    meter.write(call("req_1"), call("req_2", status="blocked"))
    await project(dsn, [meter.records])
    found = await get_model_call(pool, "tnt_a", "req_2")
    assert found is not None
    assert (found["status"], found["principal_id"]) == ("blocked", "usr_chat")
    assert found["ended_at"].endswith("Z")
    assert await get_model_call(pool, "tnt_b", "req_2") is None


async def test_a_rebuild_gives_the_same_rows(dsn: str, pool: Pool) -> None:
    log, meter = MemoryLog(), Meter()
    for n in range(20):
        meter.write(call(f"req_{n}"), call(f"req_{n // 2}", model="other"), at=T0 + n * HOUR)
    await append(log, meter.records)
    runner = ProjectionRunner(log, dsn)
    async with running(runner):
        await reached(runner, len(meter.records))
        done = await rebuild(log, dsn, list(NAMES), lambda _: None)
    assert done.identical is True
    assert [digest.rows for digest in done.after] == [40, 20, 1]


steps = st.lists(
    st.tuples(st.sampled_from(["req_1", "req_2", "req_3", "req_4"]), st.integers(-30, 60)),
    min_size=1,
    max_size=15,
)


@one_test_database
@given(steps=steps, sizes=cuts, days=st.integers(1, 3))
async def test_old_calls_go_however_the_log_is_cut(
    dsn: str, pool: Pool, steps: list[tuple[str, int]], sizes: list[int], days: int
) -> None:
    """Clocks of several processes stand apart, so the time may go back a little."""
    meter, at, times = Meter(), T0, {}
    newest = T0 // HOUR + steps[0][1]
    for request_id, hours in steps:
        at += hours * HOUR
        meter.usages.clear()  # each commit as another process's: its clock is its own
        meter.write(call(request_id), at=at)
        times[request_id] = at
        newest = max(newest, min(at // HOUR, newest + 24))
    one_by_one = await project(dsn, [[record] for record in meter.records], days)
    assert one_by_one == await project(dsn, cut(meter.records, sizes), days)
    for request_id, ended in times.items():
        found = await get_model_call(pool, "tnt_a", request_id)
        assert (found is not None) == (ended >= (newest - days * 24) * HOUR)


async def test_a_rebuild_at_any_later_time_prunes_alike(dsn: str, pool: Pool) -> None:
    log, meter = MemoryLog(), Meter()
    for n in range(12):
        meter.write(call(f"req_{n}"), at=T0 + n * DAY)
    await append(log, meter.records)
    runner = ProjectionRunner(log, dsn, projectors=partial(make_projectors, model_calls_days=5))
    async with running(runner):
        await reached(runner, len(meter.records))
        done = await rebuild(log, dsn, list(NAMES), lambda _: None, model_calls_days=5)
    assert done.identical is True
    assert [digest.rows for digest in done.after] == [12, 6, 1]
    assert await get_model_call(pool, "tnt_a", "req_5") is None
    assert await get_model_call(pool, "tnt_a", "req_6") is not None


async def test_a_longer_age_shows_more_after_a_rebuild(dsn: str, pool: Pool) -> None:
    log, meter = MemoryLog(), Meter()
    for n in range(4):
        meter.write(call(f"req_{n}"), at=T0 + n * DAY)
    await append(log, meter.records)
    runner = ProjectionRunner(log, dsn, projectors=partial(make_projectors, model_calls_days=1))
    async with running(runner):
        await reached(runner, len(meter.records))
    assert await get_model_call(pool, "tnt_a", "req_0") is None
    done = await rebuild(log, dsn, list(NAMES), lambda _: None, model_calls_days=9)
    assert done.identical is False  # and says so: the kept days stand in a table of their own
    assert await get_model_call(pool, "tnt_a", "req_0") is not None


def test_a_clock_that_is_years_ahead_costs_a_day() -> None:
    now = T0 // HOUR
    assert newest_hour(None, [T0, T0 + 400 * DAY, T0 + HOUR]) == now + 24
    assert newest_hour(now, [T0 - 5 * DAY]) == now


async def test_what_is_no_usage_stops_the_projection(dsn: str) -> None:
    meter = Meter()
    meter.write(call())
    (good,) = meter.records
    conn, writer = await fresh(dsn)
    async with conn:
        for bad in (b'"usage":{}', b'"usage":null'):
            start = good.body.index(b'"usage":{')
            end = good.body.index(b"}", start) + 1
            body = good.body[:start] + bad + good.body[end:]
            with pytest.raises(PoisonRecordError):
                await writer.write([replace(good, body=body)])
