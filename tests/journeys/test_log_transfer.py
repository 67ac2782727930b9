"""A node's log taken out while it runs, and put into another node that goes on from there."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.journeys.real_node import RealNode, real_node, unused_node


@pytest.fixture(scope="module")
def source() -> Iterator[RealNode]:
    with real_node() as node:
        yield node


@pytest.fixture
def target() -> Iterator[RealNode]:
    with unused_node() as node:
        yield node


async def first_cursor(node: RealNode) -> str:
    """Return the id of the tenant's first event."""
    async with node.client() as client, client.http.get("/v1/events?after=0-0") as answer:
        async for line in answer.content:
            if line.startswith(b"id: "):
                return line[4:].strip().decode()
    raise AssertionError("no event")


async def test_what_was_exported_goes_on_elsewhere(
    source: RealNode, target: RealNode, tmp_path: Path
) -> None:
    file = tmp_path / "log.gz"
    async with source.client() as client:
        runs = [await client.start(f"calculate {n} * 7") for n in range(20)]
        sleeping = await client.start("sleep 60000")
        for run_id in runs:
            await client.wait(run_id)
        events = await client.events(runs[0])
        written = await asyncio.to_thread(source.told, "log", "export", "-o", str(file))
        await client.cancel(sleeping)
        cursor = await first_cursor(source)
        there = await client.ask("GET", f"/v1/runs/{runs[0]}")

    verified = target.told("log", "verify", str(file))
    assert (verified["ok"], verified["records"]) == (True, written["records"])
    imported = target.told("log", "import", str(file))
    assert imported["records"] == written["records"]

    target.up()
    of_file = target.told("log", "digest", str(file))["content_digest"]
    async with target.client() as client:
        assert await client.events(runs[0]) == events
        assert (await client.ask("GET", f"/v1/runs/{runs[0]}"))[1]["run"] == there[1]["run"]
        # A run that was in flight goes on, for the log says that it is not over.
        assert (await client.cancel(sleeping))[1]["run"]["status"] == "canceled"
        assert (await client.wait(await client.start("hello")))["status"] == "completed"
        status, answer = await client.ask("GET", f"/v1/events?after={cursor}")
        assert (status, answer["error"]["code"]) == (410, "cursor_expired")
        status, page = await client.ask("GET", "/v1/runs?limit=200")
        assert set(runs) < {run["run_id"] for run in page["runs"]}
    again = target.told("log", "export", "-o", str(tmp_path / "again.gz"))
    assert again["records"] > written["records"]
    assert of_file != target.told("log", "digest")["content_digest"]


async def test_an_archive_without_its_end_or_with_a_flipped_bit_is_not_begun_with(
    source: RealNode, target: RealNode, tmp_path: Path
) -> None:
    whole = tmp_path / "log.gz"
    written = source.told("log", "export", "-o", str(whole))
    assert source.command("log", "export", "-o", str(whole)).returncode == 1
    data = whole.read_bytes()
    for name, content in (("cut", data[:-20]), ("flipped", data[:200] + b"\0" + data[201:])):
        broken = tmp_path / name
        broken.write_bytes(content)
        found = target.command("log", "import", str(broken))
        assert found.returncode == 1, found.stdout
        assert "error" in found.stderr
    assert not (target.data / "nats").exists()
    # A file that was broken off is gone on with.
    (tmp_path / "cut").write_bytes(data[: len(data) // 2])
    resumed = source.told("log", "export", "-o", str(tmp_path / "cut"))
    assert resumed["records"] >= written["records"]
    assert source.told("log", "verify", str(tmp_path / "cut"))["ok"]


def test_a_log_that_is_not_empty_is_not_overwritten(source: RealNode, tmp_path: Path) -> None:
    whole = tmp_path / "log.gz"
    source.told("log", "export", "-o", str(whole))
    running = source.command("log", "import", str(whole))
    assert running.returncode == 1
    assert "runs" in running.stderr
