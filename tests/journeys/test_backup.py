"""The restore drill: a node is lost, and another one stands where it stood."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.journeys.real_node import RealNode, real_node, unused_node


@pytest.fixture(scope="module")
def lost() -> Iterator[RealNode]:
    with real_node() as node:
        yield node


@pytest.fixture
def found() -> Iterator[RealNode]:
    with unused_node() as node:
        yield node


async def test_what_stood_there_stands_here(
    lost: RealNode, found: RealNode, tmp_path: Path
) -> None:
    directory = tmp_path / "backup"
    async with lost.client() as client:
        put = 'call tool.kv.put {"key": "colour", "value": "blue"}'
        await client.wait(await client.start(put))
        runs = [await client.start(f"calculate {n} * 7") for n in range(10)]
        ended = {run_id: await client.wait(run_id) for run_id in runs}
        events = {run_id: await client.events(run_id) for run_id in runs}
        made = await asyncio.to_thread(lost.told, "backup", "-o", str(directory))
    lost.down()

    restored = found.told("restore", str(directory))
    assert restored["records"] == made["records"]
    assert restored["log_digest"] == made["log_digest"]
    again = found.command("restore", str(directory))
    assert again.returncode == 1
    assert "already" in again.stderr

    found.up()
    async with found.client() as client:
        for run_id in runs:
            assert await client.events(run_id) == events[run_id]
            assert await client.wait(run_id) == ended[run_id]
        got = await client.wait(await client.start('call tool.kv.get {"key": "colour"}'))
        assert "blue" in got["output"]["text"]
    for path in directory.rglob("*"):
        if path.is_file():
            assert path.stat().st_mode & 0o077 == 0, path


def test_a_backup_that_is_damaged_or_broken_off_is_not_begun_with(
    lost: RealNode, found: RealNode, tmp_path: Path
) -> None:
    lost.up()
    directory = tmp_path / "backup"
    lost.told("backup", "-o", str(directory), "--without-secrets")
    assert not (directory / "secrets").exists()
    assert lost.command("backup", "-o", str(directory)).returncode == 1
    listed = (directory / "backup.json").read_text()
    log = (directory / "log.gz").read_bytes()
    for name, content in (("backup.json", b""), ("log.gz", log[:-9]), ("log.gz", None)):
        (directory / "backup.json").write_text(listed)
        if content is None:
            (directory / name).unlink()
        else:
            (directory / name).write_bytes(content)
        command = found.command("restore", str(directory))
        assert command.returncode == 1, name
        assert "error" in command.stderr
        (directory / "log.gz").write_bytes(log)
    assert not (found.data / "nats").exists()
