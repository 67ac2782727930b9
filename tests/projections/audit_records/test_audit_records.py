"""Rows of audit records: one a record, found by every filter, page after page."""

from collections.abc import Callable
from typing import Any

import pytest

from agentos.domain.audit.chain import AuditChain, Entry, chain_ref
from agentos.domain.auth import Principal
from agentos.domain.errors import InvalidRequestError
from agentos.domain.log import Recorded
from agentos.projections.audit_records.queries import (
    AuditFilters,
    find_audit_start,
    list_audit_records,
)
from agentos.projections.queries import Pool
from tests.domain.given import T0, moment, written
from tests.projections.test_writer import fresh

ACTIONS = ("keys.issue", "runs.create", "runs.end")


def chain(tenant_id: str = "tnt_a", commits: int = 7) -> list[Recorded]:
    """Return a chain: commits of three records each."""
    audit = AuditChain(chain_ref(tenant_id))
    return [
        written(audit, audit.record([entry(n * 3 + m) for m in range(3)], moment(T0 + n * 1000)), n)
        for n in range(1, commits + 1)
    ]


def entry(n: int) -> Entry:
    who = Principal(principal_id=f"usr_{n % 2}\x00")
    run_id = f"run_{n}" if n % 3 else None
    outcome: Any = "denied" if n % 5 == 0 else "allowed"
    return Entry(who, ACTIONS[n % 3], f"r_{n}", outcome, f"evt_{n}", run_id=run_id)


def ours(records: list[Recorded]) -> list[dict[str, Any]]:
    import json

    lines = [line for r in reversed(records) for line in reversed(r.lines())]
    return [json.loads(line)["event"]["payload"] for line in lines]


async def pages(pool: Pool, filters: AuditFilters, limit: int = 4) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    cursor: str | None = None
    while True:
        page = await list_audit_records(pool, "tnt_a", filters, limit, cursor)
        assert len(page.records) <= limit
        found += page.records
        if (cursor := page.next_cursor) is None:
            return found


async def test_each_record_is_a_row_and_every_filter_finds_its_own(dsn: str, pool: Pool) -> None:
    conn, writer = await fresh(dsn)
    records = chain()
    async with conn:
        await writer.write(records[:3])
        await writer.write(records[3:])
    everything = ours(records)
    assert await pages(pool, AuditFilters()) == everything
    cases: list[tuple[AuditFilters, Callable[[dict[str, Any]], bool]]] = [
        (AuditFilters(action="keys.issue"), lambda r: r["action"] == "keys.issue"),
        (AuditFilters(outcome="denied"), lambda r: r["outcome"] == "denied"),
        (AuditFilters(run_id="run_4"), lambda r: r.get("run_id") == "run_4"),
        (AuditFilters(after=T0 + 3000), lambda r: r["time"] > rfc(T0 + 3000)),
        (AuditFilters(before=T0 + 3000), lambda r: r["time"] < rfc(T0 + 3000)),
        (
            AuditFilters(action="runs.end", after=T0 + 3000, outcome="allowed"),
            lambda r: (
                r["action"] == "runs.end"
                and r["time"] > rfc(T0 + 3000)
                and r["outcome"] == "allowed"
            ),
        ),
    ]
    for filters, wanted in cases:
        found = await pages(pool, filters)
        assert found == [r for r in everything if wanted(r)]
        assert found
    assert await pages(pool, AuditFilters(principal_id="usr_1\ufffd"))
    assert await pages(pool, AuditFilters(action="none")) == []


def rfc(ms: int) -> str:
    from agentos.domain.times import rfc3339

    return rfc3339(ms)


async def test_where_a_stream_begins(dsn: str, pool: Pool) -> None:
    conn, writer = await fresh(dsn)
    async with conn:
        await writer.write(chain())  # commits 1 to 7 of three records, made at T0 + n seconds

    async def start(since: int | None, last: int, **filters: Any) -> tuple[int, int]:
        return await find_audit_start(pool, "tnt_a", AuditFilters(**filters), since, last)

    assert await start(T0 + 3000, 0) == (2, 3)  # since the third: behind all of the second
    assert await start(T0 + 2999, 0) == (2, 3)
    assert await start(T0, 0) == (0, 0)
    assert await start(T0 + 99_000, 0) == (7, 3)
    assert await start(None, 4) == (6, 2)
    assert await start(None, 21) == (0, 0)
    assert await start(None, 20) == (1, 1)
    assert await start(T0 + 3000, 4) == (6, 2)
    assert await start(T0 + 7000, 4) == (6, 3)
    assert await start(None, 1, action="runs.create") == (6, 2)
    assert await find_audit_start(pool, "tnt_b", AuditFilters(), T0, 3) == (0, 0)


async def test_another_tenants_records_and_cursors_are_not_ours(dsn: str, pool: Pool) -> None:
    conn, writer = await fresh(dsn)
    async with conn:
        await writer.write(chain())
    assert (await list_audit_records(pool, "tnt_b", AuditFilters(), 50)).records == []
    cursor = (await list_audit_records(pool, "tnt_a", AuditFilters(), 2)).next_cursor
    for tenant_id, filters in (("tnt_b", AuditFilters()), ("tnt_a", AuditFilters(action="x"))):
        with pytest.raises(InvalidRequestError):
            await list_audit_records(pool, tenant_id, filters, 2, cursor)


async def test_a_forged_double_is_a_row_too_and_stops_nothing(dsn: str, pool: Pool) -> None:
    from dataclasses import replace

    conn, writer = await fresh(dsn)
    records = chain()
    async with conn:
        await writer.write([*records, replace(records[-1], position=99)])
    assert len(await pages(pool, AuditFilters())) == 24
