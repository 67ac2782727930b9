"""How an auditor ends: in the middle of an append, or because one half of it failed."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from agentos.domain.errors import DependencyUnavailableError
from agentos.domain.log import Commit, TailBatch
from agentos.handlers.auditor.app import _work
from agentos.handlers.auditor.auditor import Auditor
from agentos.handlers.auditor.notary import Notary
from agentos.handlers.auditor.parts import AuditorParts
from agentos.infra.clock import SystemClock, SystemIds
from agentos.infra.memory.log import MemoryLog
from tests.domain.audit.keys import signer
from tests.handlers.auditor.audited import audit_all, checkpoints_of, records_of, sign, verdict
from tests.handlers.node import a_node, cancel, create


class SilentLog(MemoryLog):
    """A log that does not answer the append of a checkpoint, written or not."""

    def __init__(self, *, writes: bool) -> None:
        super().__init__()
        self.writes = writes
        self.is_silent = False
        self.asked = asyncio.Event()

    async def append(self, commit: Commit, *, expected: int) -> int:
        if not self.is_silent or commit.ref.aggregate_id != "checkpoints":
            return await super().append(commit, expected=expected)
        if self.writes:
            await super().append(commit, expected=expected)
        self.asked.set()
        await asyncio.Event().wait()
        raise AssertionError


@pytest.mark.parametrize("writes", [True, False])
async def test_a_checkpoint_that_was_broken_off_is_signed_as_it_should_be(writes: bool) -> None:
    async with a_node(log := SilentLog(writes=writes)) as node:
        await node.tenant()
        parts = await node.handlers()
        auditor = await audit_all(log)
        log.is_silent = True
        signing = asyncio.create_task(sign(auditor))
        await log.asked.wait()
        signing.cancel()
        await asyncio.gather(signing, return_exceptions=True)
        log.is_silent = False
        # What a process does at its end, and the next one after it.
        await auditor.notary.sign_due(asyncio.get_running_loop().time())
        await cancel(parts, (await create(parts))["run"]["run_id"])
        await sign(await audit_all(log))
        total = len(await records_of(log, "tnt_a"))
        assert [c["first"] for c in await checkpoints_of(log, "tnt_a")] == [1, 3]
        found = (await verdict(log, "tnt_a")).view()
        assert (found["ok"], found["signed_to"]) == (True, total)


class BrokenLog(MemoryLog):
    """A log that cannot be followed."""

    async def tail(self, *, after: int, **which: object) -> AsyncGenerator[TailBatch]:
        raise DependencyUnavailableError("the log is away", dependency="nats")
        yield


class WatchedNotary(Notary):
    """A notary that says when it is over."""

    is_over = False

    async def run(self) -> None:
        try:
            await super().run()
        finally:
            self.is_over = True


async def test_nothing_of_it_runs_on_when_a_part_has_failed() -> None:
    parts = AuditorParts(BrokenLog(), SystemClock(), SystemIds(), signer())
    notary = WatchedNotary(parts)
    with pytest.raises(ExceptionGroup):
        await _work(Auditor(parts, notary), parts, "wrk_1")
    assert notary.is_over
