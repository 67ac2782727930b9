"""What goes, in which order, and what a crash at any point leaves."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentos.domain.archive import ArchiveError
from agentos.domain.errors import InvalidRequestError
from agentos.domain.log import make_commit
from agentos.domain.retention.retention import Archive, RetentionOf, retention_ref
from agentos.domain.run.events import Output
from agentos.domain.run.idempotency import EPOCH_MS
from agentos.domain.run.run import Run, run_ref
from agentos.handlers.retention import batch
from agentos.handlers.retention.keeper import RetentionKeeper
from agentos.infra.retention import ArchiveDirectory
from tests.domain.given import T0, created, moment
from tests.handlers.auditor.audited import Crash, audit_all, crash_at, records_of, verdict
from tests.handlers.node import UnevenLog, create, settle
from tests.handlers.retention.world import DAY_MS, World, a_world, round_of

POINTS = (
    "before_archive",
    "after_archive",
    "after_planned",
    "after_begun",
    "after_first_removed",
    "after_removed",
)


async def phase(world: World, keeper: RetentionKeeper) -> str:
    return (await keeper.load("tnt_a")).phase


async def test_what_is_old_goes_and_stands_in_an_archive(tmp_path: Path) -> None:
    async with a_world(tmp_path) as world:
        runs = await world.ended(3)
        lines = [await world.node.log.read(run_ref("tnt_a", run)) for run in runs]
        keeper = await world.keeper()
        (applied,) = await round_of(keeper)
        assert (applied.kind, applied.items, applied.commits) == ("runs", 3, 9)
        assert await world.kept(runs) == []
        assert await world.gone() == 3
        both = sorted((r for records in lines for r in records), key=lambda r: r.position)
        assert world.archived() == both
        assert [path.name for path in world.files()] == [applied.archive]
        assert (tmp_path / applied.archive).stat().st_mode & 0o077 == 0
        assert await round_of(keeper) == []


async def test_what_is_young_live_or_unread_stays(tmp_path: Path) -> None:
    async with a_world(tmp_path) as world:
        old = await world.ended(1)
        live = (await create(world.parts))["run"]["run_id"]
        assert await round_of(await world.keeper(days=89.9)) == []
        keeper = await world.keeper()
        young = await world.ended(1)
        await world.projected(0)
        assert await round_of(keeper) == [], "the read models are behind"
        await world.projected(await world.node.log.head())
        (applied,) = await round_of(keeper)
        assert applied.items == 1, "the audit has not read the young one"
        assert await world.kept([*old, live, *young]) == [live, *young]


async def test_nothing_goes_while_no_projector_is_heard(tmp_path: Path) -> None:
    async with a_world(tmp_path) as world:
        await world.ended(1)
        await audit_all(world.node.log)
        keeper = await world.keeper()
        keeper._parts.readers._heard.clear()
        assert await round_of(keeper) == []
        await world.projected(await world.node.log.head())
        assert len(await round_of(keeper)) == 1


async def test_whoever_reads_from_the_beginning_holds_it_off(tmp_path: Path) -> None:
    async with a_world(tmp_path) as world:
        runs = await world.ended(1)
        keeper = await world.keeper(others={"quota": "1d"})
        await world.projected(0, "reader")
        assert await round_of(keeper) == []
        assert [due async for due in keeper.due()] == []
        keeper._parts.readers._heard.pop("wrk_reader")
        going = asyncio.create_task(round_of(keeper))
        async with asyncio.timeout(10):
            while await phase(world, keeper) != "planned":
                await settle(0.001)
                if going.done():
                    break
        if not going.done():  # it came while a plan stood: nothing begins before it has ended
            await world.projected(0, "reader")
        await going
        assert await world.kept(runs) == []


async def test_by_default_everything_is_kept(tmp_path: Path) -> None:
    async with a_world(tmp_path) as world:
        runs = await world.ended(2)
        assert await round_of(await world.keeper(days=9_000, runs="forever")) == []
        assert await world.kept(runs) == runs


async def test_a_slot_is_given_back_before_its_run_goes(tmp_path: Path) -> None:
    async with a_world(tmp_path) as world:
        run_id = (await create(world.parts))["run"]["run_id"]
        desk = world.parts.desks.desk("tnt_a")
        free, desk.free = desk.free, lambda run_id: None  # type: ignore[method-assign]
        await world.node.finish(run_id)
        keeper = await world.keeper()
        assert await round_of(keeper) == []
        free(run_id)
        await world.freed()
        assert len(await round_of(keeper)) == 1


async def test_an_idempotency_key_is_never_given_another_run_of_its_name(tmp_path: Path) -> None:
    async with a_world(tmp_path) as world:
        answer = await create(world.parts, key="k")
        first = answer["run"]["run_id"]
        await world.node.finish(first)
        await world.freed()
        free = await world.ended(1)
        epoch_ends = (EPOCH_MS - (T0 + DAY_MS) % EPOCH_MS) / DAY_MS + 1
        assert len(await round_of(await world.keeper(days=epoch_ends - 0.01, runs="1s"))) == 1
        assert await world.kept([first, *free]) == [first]
        assert (await create(world.parts, key="k"))["existing"]
        (applied,) = await round_of(await world.keeper(days=epoch_ends + 1.01, runs="1s"))
        assert applied.items == 1
        later = await world.node.handlers(skew_ms=round((epoch_ends + 1.01) * DAY_MS))
        again = await create(later, key="k")
        assert not again["existing"]
        assert again["run"]["run_id"] != first


async def test_large_retention_goes_in_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "MOST_STREAMS", 2)
    async with a_world(tmp_path) as world:
        await world.ended(5)
        done = await round_of(await world.keeper())
        assert [applied.items for applied in done] == [2, 2, 1]
        assert len(world.archived()) == 15


async def test_each_tenant_goes_by_its_own_word(tmp_path: Path) -> None:
    async with a_world(tmp_path) as world:
        await world.node.tenant("tnt_b")
        own, others = await world.ended(1), await world.ended(1, tenant_id="tnt_b")
        await world.node.retention("tnt_b", runs="forever")
        await round_of(await world.keeper())
        assert await world.kept(own) == []
        assert await world.kept(others, "tnt_b") == others
        await world.node.retention("tnt_b", runs="30d")
        await round_of(await world.keeper(days=31, runs="forever"))
        assert await world.kept(others, "tnt_b") == []
        assert await world.gone(tenant_id="tnt_b") == 1


@pytest.mark.parametrize("point", POINTS)
async def test_a_crash_at_any_point_loses_and_doubles_nothing(tmp_path: Path, point: str) -> None:
    async with a_world(tmp_path) as world:
        runs = await world.ended(3)
        before = [r for run in runs for r in await world.node.log.read(run_ref("tnt_a", run))]
        crash = crash_at(f"retention.{point}")
        with pytest.raises(Crash):
            await round_of(await world.keeper(crash=crash))
        await world.node.tenant("tnt_b")  # another tenant's work goes on
        if point in ("before_archive", "after_archive", "after_planned"):
            assert await world.kept(runs) == runs, "nothing goes before `begun`"
        assert len(await round_of(await world.keeper())) == 1
        assert await world.kept(runs) == []
        assert await world.gone() == 3
        named = [r["meta"]["archive"] for r in await applied_records(world)]
        found = [r for r in world.archived() if r in before]
        assert len(named) == 1
        assert {r.position for r in found} == {r.position for r in before}


async def applied_records(world: World) -> list[dict[str, Any]]:
    await audit_all(world.node.log)
    records = await records_of(world.node.log, "tnt_a")
    return [record for record in records if record["action"] == "retention.apply"]


async def test_what_went_is_audited_and_the_chain_holds(tmp_path: Path) -> None:
    async with a_world(tmp_path) as world:
        await world.ended(2)
        (applied,) = await round_of(await world.keeper())
        (record,) = await applied_records(world)
        assert record["resource"] == applied.plan_id
        assert record["meta"]["items"] == 2
        assert record["meta"]["digest"] == applied.digest
        whole = (await verdict(world.node.log, "tnt_a")).view()
        assert whole["ok"]
        assert whole["records"] == len(await records_of(world.node.log, "tnt_a"))


async def test_nothing_goes_when_the_archive_is_not_as_it_was_written(tmp_path: Path) -> None:
    async with a_world(tmp_path) as world:
        runs = await world.ended(1)
        with pytest.raises(Crash):
            await round_of(await world.keeper(crash=crash_at("retention.after_planned")))
        (path,) = world.files()
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        keeper = await world.keeper()
        assert await round_of(keeper) == []
        assert await world.kept(runs) == runs
        assert await phase(world, keeper) == "planned"
        path.write_bytes(whole)
        assert len(await round_of(keeper)) == 1
        assert await world.kept(runs) == []


async def test_a_disk_that_writes_something_else_stops_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_world(tmp_path) as world:
        runs = await world.ended(1)

        async def damaged(self: ArchiveDirectory, *_: object) -> Archive:
            raise ArchiveError("the disk lies")

        monkeypatch.setattr(ArchiveDirectory, "write", damaged)
        assert await round_of(await world.keeper()) == []
        assert await world.kept(runs) == runs


async def test_without_an_archive_runs_go_and_the_log_still_says_which(tmp_path: Path) -> None:
    async with a_world(tmp_path) as world:
        runs = await world.ended(2)
        crash = crash_at("retention.after_first_removed")
        keeper = await world.keeper(crash=crash, has_archive=False)
        with pytest.raises(Crash):
            await round_of(keeper)
        assert len(await world.kept(runs)) == 1
        (applied,) = await round_of(await world.keeper(has_archive=False))
        assert applied.archive == ""
        assert await world.kept(runs) == []
        state = RetentionOf(retention_ref("tnt_a"))
        records = await world.node.log.read(state.ref)
        plan = state.take(records[:1]).plan
        assert plan is not None
        assert {stream.id for stream in plan.streams} == set(runs)
        assert world.files() == []


@pytest.mark.parametrize("seed", range(5))
async def test_of_many_processes_each_run_goes_once(tmp_path: Path, seed: int) -> None:
    async with a_world(tmp_path, UnevenLog(seed)) as world:
        runs = await world.ended(6)
        keepers = [await world.keeper() for _ in range(4)]
        done = await asyncio.gather(*map(round_of, keepers))
        while await world.kept(runs) or await phase(world, keepers[0]) != "idle":
            done += await asyncio.gather(*map(round_of, keepers))
        assert sum(applied.items for each in done for applied in each) == 6
        assert await world.gone() == 6
        archived = world.archived()
        assert len(archived) == len({record.position for record in archived}) == 18


@pytest.mark.parametrize(
    ("wish", "why"),
    [
        ({"audit": "30d"}, "kept whole"),
        ({"agents": "1d"}, "kept whole"),
        ({"runs": "soon"}, "match"),
    ],
)
async def test_a_wish_that_cannot_be_is_refused(
    tmp_path: Path, wish: dict[str, str], why: str
) -> None:
    async with a_world(tmp_path) as world:
        with pytest.raises(InvalidRequestError) as refused:
            await world.node.retention("tnt_a", **wish)
        assert why in str(refused.value.details["errors"])


async def test_a_run_that_cannot_be_read_stays_and_holds_up_no_other(tmp_path: Path) -> None:
    async with a_world(tmp_path) as world:
        run = Run(run_ref("tnt_a", "run_broken"))
        run.create("agt_a", created(), moment(T0, world.node.new_id))
        run.complete(Output(text="done"), moment(T0, world.node.new_id))
        commit = make_commit(run.ref, run.collect(), world.node.new_id)
        timeless = commit.body.replace(b'"time":"2027', b'"time":"then')
        assert timeless != commit.body
        await world.node.log.append(replace(commit, body=timeless), expected=0)
        runs = [(await create(world.parts))["run"]["run_id"] for _ in range(2)]
        for run_id in runs:
            await world.node.finish(run_id)
        async with asyncio.timeout(10):
            while (await world.node.admission()).active:
                await settle(0.005)
        keeper = await world.keeper()
        (applied,) = await round_of(keeper)
        assert applied.items == 2
        assert await world.kept(["run_broken", *runs]) == ["run_broken"]
