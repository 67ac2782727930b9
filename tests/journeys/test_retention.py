"""Retention on real servers: what is old goes, and everybody who asks for it is told."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from psycopg import AsyncConnection

from agentos.domain.run.run import run_ref
from agentos.infra.archive import ArchiveReader
from agentos.infra.jetstream.connection import bounded_close, connect
from agentos.infra.jetstream.log import JetStreamLog
from agentos.projections.drift import SCRATCH, Drift, DriftCheck, _prepare
from agentos.projections.schema import LIVE
from agentos.projections.schema import connect as database
from tests.journeys import mini_node
from tests.journeys.mini_node import MiniNode
from tests.journeys.real_node import Client, real_node, unused_node

KEPT = {"AGENTOS_RETENTION_RUNS": "2s", "AGENTOS_RETENTION_EVERY_S": "1"}
POINTS = (
    "before_archive",
    "after_archive",
    "after_planned",
    "after_begun",
    "after_first_removed",
    "after_removed",
)


@pytest_asyncio.fixture
async def node() -> AsyncIterator[MiniNode]:
    """A node with everything but handlers and a supervisor."""
    node = MiniNode()
    await node.open("gateway", "executor", "projector", "auditor")
    yield node
    await node.close()


async def agentos(node: MiniNode, *words: str, **extra: str) -> tuple[int, str]:
    """Run the command with the archives where this node has them."""
    return await mini_node.agentos(node, *words, **KEPT, **extra)


async def status_of(node: MiniNode, path: str, method: str = "GET") -> tuple[int, dict[str, Any]]:
    async with node.http.request(method, path) as answer:
        raw = await answer.read()
        return answer.status, json.loads(raw) if answer.content_type.endswith("json") else {}


async def purged(node: MiniNode, run_id: str, within: float = 60) -> dict[str, Any]:
    """Wait until a run's events are gone; returns the error."""
    async with asyncio.timeout(within):
        while True:
            try:
                status, answer = await status_of(node, f"/v1/runs/{run_id}/events")
                if status == 410:
                    return answer["error"]  # type: ignore[no-any-return]
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.1)


async def ended(node: MiniNode, text: str = "calculate 6 * 7") -> str:
    """Start a run and wait for its end; returns its id."""
    status, answer = await node.post_run_until_accepted(text)
    assert status == 201, answer
    run_id: str = answer["run"]["run_id"]
    await node.finished(run_id)
    return run_id


async def test_what_is_old_goes_and_whoever_asks_is_told(node: MiniNode) -> None:
    node.start("handlers")
    await node.gateway_up()
    runs = [await ended(node, f"calculate {n} * 7") for n in range(4)]
    live = (await node.post_run_until_accepted("sleep 60000"))[1]["run"]["run_id"]
    views = {run: (await status_of(node, f"/v1/runs/{run}"))[1]["run"] for run in runs}
    events = await node.events(runs[0])
    code, said = await agentos(node, "retention", "run", "--dry-run", "--json")
    assert code == 0, said
    assert json.loads(said)["dry_run"]

    async with node.http.get("/v1/events?after=0-0") as stream:
        seen: list[dict[str, Any]] = []
        reading = asyncio.create_task(read_into(stream, seen))
        await until(lambda: sum(e["type"] == "agentos.run.completed" for e in seen) == 4)
        node.kill("handlers")
        node.start("handlers", **KEPT)
        await node.handlers_up()
        for run in runs:
            error = await purged(node, run)
            assert error["code"] == "cursor_expired"
        assert error["details"]["first_sequence"] == len(events) + 1
        after = await ended(node, "hello behind it")
        await until(lambda: any(e.get("run_id") == after for e in seen))
        assert not any("error" in event for event in seen), "a live stream goes on"
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)

    for run in runs:
        status, answer = await status_of(node, f"/v1/runs/{run}")
        assert (status, answer["run"]) == (200, views[run])
        status, answer = await status_of(node, f"/v1/runs/{run}/wait")
        assert (status, answer["run"]) == (200, views[run])
        assert (await status_of(node, f"/v1/runs/{run}:cancel", "POST"))[0] == 409
    assert (await status_of(node, "/v1/events?after=1-1"))[0] == 410
    listed = (await status_of(node, "/v1/runs?limit=200"))[1]["runs"]
    assert {*runs, live} <= {run["run_id"] for run in listed}
    assert (await status_of(node, f"/v1/runs/{live}"))[1]["run"]["status"] == "running"

    code, said = await agentos(node, "retention", "status", "--json")
    assert code == 0, said
    told = json.loads(said)
    (tenant,) = told["tenants"]
    assert tenant["gone"]["runs"]["items"] >= len(runs)
    assert (told["missing"], told["unnamed"]) == ([], [])
    code, said = await agentos(node, "audit", "verify", "--tenant", "tnt_demo", "--json")
    assert (code, json.loads(said)["ok"]) == (0, True)
    archived = await asyncio.to_thread(archived_bodies, node)
    assert [json.loads(line)["event"] for line in archived[runs[0]]] == events
    assert (await status_of(node, f"/v1/runs/{live}:cancel", "POST"))[0] == 200


async def read_into(stream: aiohttp.ClientResponse, seen: list[dict[str, Any]]) -> None:
    async for line in stream.content:
        if line.startswith(b"data: "):
            data = json.loads(line[6:])
            seen.append(data.get("event", data))


async def until(holds: Any, within: float = 30) -> None:
    async with asyncio.timeout(within):
        while not holds():  # noqa: ASYNC110 - another process changes it
            await asyncio.sleep(0.05)


def archived_bodies(node: MiniNode) -> dict[str, list[bytes]]:
    """Return the lines of each archived run, in order."""
    found: dict[str, list[bytes]] = {}
    for path in sorted((node.directory / "data" / "archive").glob("*.log.gz")):
        reader = ArchiveReader(path)
        for chunk in reader.chunks():
            for record in chunk:
                found.setdefault(record.ref.aggregate_id, []).extend(record.lines())
        assert reader.is_complete
    return found


@pytest.mark.parametrize("point", POINTS)
async def test_a_kill_at_any_point_loses_nothing(node: MiniNode, point: str) -> None:
    node.start("handlers")
    await node.gateway_up()
    run_id = await ended(node)
    events = await node.events(run_id)
    node.kill("handlers")
    node.start("handlers", AGENTOS_CRASH_POINT=f"retention.{point}", **KEPT)
    await node.died("handlers", within=60)
    connection = await connect(node.nats.url, "journey")
    try:
        log = JetStreamLog(connection)
        if point in ("before_archive", "after_archive", "after_planned"):
            assert await log.last(run_ref("tnt_demo", run_id)) is not None
    finally:
        await bounded_close(connection)
    node.start("handlers", **KEPT)
    await node.handlers_up()
    assert (await purged(node, run_id))["details"]["first_sequence"] == len(events) + 1
    assert (await status_of(node, f"/v1/runs/{run_id}"))[1]["run"]["status"] == "completed"
    archived = await asyncio.to_thread(archived_bodies, node)
    lines = archived[run_id]
    shown = [json.loads(line)["event"] for line in lines]
    assert shown[: len(events)] == events
    assert len(shown) in (len(events), 2 * len(events)), "an unnamed file may be left"


async def let_go(node: MiniNode, count: int) -> list[str]:
    """Work some runs off and wait until retention has let them go; returns their ids."""
    node.start("handlers", **KEPT)
    await node.gateway_up()
    runs = [await ended(node, f"calculate {n} * 7") for n in range(count)]
    for run in runs:
        await purged(node, run)
    node.kill("handlers")  # from here on everything stays as it is
    return runs


async def test_read_models_made_anew_have_what_went(node: MiniNode) -> None:
    runs = await let_go(node, 3)
    code, said = await agentos(node, "replay", "rebuild", "--json")
    assert code == 0, said
    told = json.loads(said)
    assert told["identical"], told["tables"]
    assert {t["table"]: t["rows"] for t in told["tables"]}["runs"] >= len(runs)
    for run in runs:
        assert (await status_of(node, f"/v1/runs/{run}"))[1]["run"]["status"] == "completed"
    await no_drift(node)

    code, said = await agentos(node, "replay", "run", runs[0], "--json")
    assert (code, json.loads(said)["equal"]) == (0, True), "its archive has it, and its digest"
    code, said = await agentos(node, "state", "run", runs[0], "--json")
    assert (code, json.loads(said)["state"]["status"]) == (0, "completed")

    digests = await agentos(node, "replay", "digest", "runs", "--json")
    node.kill("projector")
    async with await AsyncConnection.connect(node.postgres.dsn, autocommit=True) as database:
        await database.execute("DROP SCHEMA agentos CASCADE")
    node.start("projector")
    async with asyncio.timeout(60):
        while await agentos(node, "replay", "digest", "runs", "--json") != digests:  # noqa: ASYNC110
            await asyncio.sleep(0.2)


async def no_drift(node: MiniNode) -> None:
    """Check every aggregate that the log has, as the projector does in the background."""
    drifted: list[Drift] = []
    connection = await connect(node.nats.url, "journey")
    try:
        log = JetStreamLog(connection)
        check = DriftCheck(log, node.postgres.dsn, drifted.append)
        async with (
            await database(node.postgres.dsn, LIVE, "drift") as live,
            await database(node.postgres.dsn, SCRATCH, "drift") as scratch,
        ):
            await _prepare(scratch, check._projectors)
            refs = {
                record.ref for kind in ("run", "agent") for record in await log.last_of_kind(kind)
            }
            assert refs
            for ref in refs:
                drifted += await check.check(ref, live, scratch)
    finally:
        await bounded_close(connection)
    assert drifted == []


async def test_a_rebuild_without_an_archive_says_what_would_be_lost(node: MiniNode) -> None:
    (run,) = await let_go(node, 1)
    directory = node.directory / "data" / "archive"
    await asyncio.to_thread(directory.rename, directory.with_name("elsewhere"))
    for words in (("replay", "run"), ("state", "run")):
        code, said = await agentos(node, *words, run)
        assert code == 1
        assert "tnt_demo.runs.ret_" in said
    code, said = await agentos(node, "replay", "rebuild", "runs")
    assert code == 1
    assert "tnt_demo.runs.ret_" in said
    assert (await status_of(node, f"/v1/runs/{run}"))[0] == 200
    code, said = await agentos(node, "retention", "status", "--json")
    assert len(json.loads(said)["missing"]) >= 1
    code, said = await agentos(node, "replay", "rebuild", "runs", "--without-archives")
    assert code == 0, said
    assert (await status_of(node, f"/v1/runs/{run}"))[0] == 404


async def test_an_archive_gives_the_runs_back_in_another_node(node: MiniNode) -> None:
    (run,) = await let_go(node, 1)
    view = (await status_of(node, f"/v1/runs/{run}"))[1]["run"]
    archived = await asyncio.to_thread(archived_bodies, node)
    directory = node.directory / "data" / "archive"
    (file,) = await asyncio.to_thread(lambda: list(directory.glob("*.log.gz")))
    with unused_node() as other:
        assert other.told("log", "verify", str(file))["ok"]
        other.told("log", "import", str(file))
        await asyncio.to_thread(other.up)
        async with other.client() as client:
            status, answer = await client.ask("GET", f"/v1/runs/{run}")
            assert (status, answer["run"]) == (200, view)
            events = await client.events(run)
    assert events == [json.loads(line)["event"] for line in archived[run]]


async def events_status(client: Client, run_id: str) -> int:
    async with client.http.get(f"/v1/runs/{run_id}/events") as answer:
        return answer.status


async def test_a_restored_node_has_what_went(tmp_path: Path) -> None:
    """The archives are in a backup; the read models of the new node are made from them too."""
    with real_node(AGENTOS_RETENTION_EVERY_S="1") as lost, unused_node() as found:
        asked = lost.told("tenants", "update", "tnt_demo", "--keep", "runs=2s")
        assert asked["tenant"]["retention"] == {"runs": "2s"}
        wrong = lost.command("tenants", "update", "tnt_demo", "--keep", "audit=2s")
        assert (wrong.returncode, "kept whole" in wrong.stderr) == (1, True)
        async with lost.client() as client:
            runs = [await client.start(f"calculate {n} * 7") for n in range(3)]
            views = {run: await client.wait(run) for run in runs}
            async with asyncio.timeout(60):
                for run in runs:
                    while await events_status(client, run) != 410:  # noqa: ASYNC110
                        await asyncio.sleep(0.1)
            made = await asyncio.to_thread(lost.told, "backup", "-o", str(tmp_path / "backup"))
        assert made["archives_missing"] == []
        lost.down()
        restored = found.told("restore", str(tmp_path / "backup"))
        assert restored["archives"] >= 1
        await asyncio.to_thread(found.up)
        async with found.client() as client:
            async with asyncio.timeout(60):
                for run in runs:
                    while (await client.ask("GET", f"/v1/runs/{run}"))[0] != 200:  # noqa: ASYNC110
                        await asyncio.sleep(0.1)
            for run in runs:
                assert (await client.ask("GET", f"/v1/runs/{run}"))[1]["run"] == views[run]
                assert await events_status(client, run) == 410
            assert (await client.wait(await client.start("hello")))["status"] == "completed"
        rebuilt = found.told("replay", "rebuild")
        assert rebuilt["identical"]


async def test_an_export_over_which_events_went_is_not_called_whole(
    node: MiniNode, tmp_path: Path
) -> None:
    node.start("handlers", **KEPT)
    await node.gateway_up()
    first = await ended(node)
    await purged(node, first)
    file = tmp_path / "log.gz"
    code, said = await agentos(node, "log", "export", "-o", str(file), "--json")
    assert code == 0, said
    whole = await asyncio.to_thread(file.read_bytes)
    second = await ended(node)
    await purged(node, second)
    await asyncio.to_thread(file.write_bytes, whole[:-20])  # as if it had been broken off
    code, said = await agentos(node, "log", "export", "-o", str(file))
    assert code == 1
    assert "retention let go" in said
