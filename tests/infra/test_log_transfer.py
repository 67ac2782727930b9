"""A log that was taken over: whoever works on it goes on as if it had always been there."""

from pathlib import Path

from agentos.domain.run.run import run_ref
from agentos.infra.archive import ArchiveReader, ArchiveWriter
from agentos.infra.log_transfer import export_log, head_of, import_log
from agentos.infra.memory.log import MemoryLog
from tests.handlers.auditor.audited import audit_all, checkpoints_of, records_of, sign, verdict
from tests.handlers.node import Node, a_node, cancel, create


def nothing(count: int, head: int) -> None:
    """Nobody watches."""


async def taken_over(log: MemoryLog, file: Path) -> MemoryLog:
    """Return a new log with all that an archive of a log holds."""
    writer = ArchiveWriter.open(file, await head_of(log))
    await export_log(log, writer, nothing)
    writer.close()
    there = MemoryLog()
    await import_log(there, ArchiveReader(file), nothing)
    return there


async def runs_of(node: Node, count: int) -> list[str]:
    """Make some runs that are canceled."""
    parts = await node.handlers()
    made = [(await create(parts))["run"]["run_id"] for _ in range(count)]
    for run_id in made:
        await cancel(parts, run_id)
    return made


async def test_the_auditor_goes_on_and_signs_whatever_the_positions_are(tmp_path: Path) -> None:
    async with a_node() as node:
        await node.tenant()
        gone = await runs_of(node, 10)
        await sign(await audit_all(node.log))
        await sign(await audit_all(node.log))
        assert await checkpoints_of(node.log, "tnt_a")
        # What retention let go leaves gaps, which the new log does not have.
        for run_id in gone:
            await node.log.purge(run_ref("tnt_a", run_id), through=await node.log.head())
        log = await taken_over(node.log, tmp_path / "log.gz")
    assert await log.head() < await node.log.head()
    signed = len(await checkpoints_of(log, "tnt_a"))
    async with a_node(log) as node:
        await runs_of(node, 3)
        for _ in range(2):
            await sign(await audit_all(log))
    assert len(await checkpoints_of(log, "tnt_a")) == signed + 1
    records = await records_of(log, "tnt_a")
    assert len(records) == 2 + 3 * 13
    found = (await verdict(log, "tnt_a")).view()
    assert (found["ok"], found["signed_to"]) == (True, len(records))


async def test_a_second_transfer_is_as_good_as_the_first(tmp_path: Path) -> None:
    async with a_node() as node:
        await node.tenant()
        gone = await runs_of(node, 4)
        await sign(await audit_all(node.log))
        await node.log.purge(run_ref("tnt_a", gone[0]), through=await node.log.head())
        once = await taken_over(node.log, tmp_path / "1.gz")
    async with a_node(once) as node:
        more = await runs_of(node, 2)
        await sign(await audit_all(once))
        await once.purge(run_ref("tnt_a", more[0]), through=await once.head())
        twice = await taken_over(once, tmp_path / "2.gz")
    async with a_node(twice) as node:
        await runs_of(node, 1)
        await sign(await audit_all(twice))
    found = (await verdict(twice, "tnt_a")).view()
    assert (found["ok"], found["signed_to"]) == (True, 2 + 3 * 7)
