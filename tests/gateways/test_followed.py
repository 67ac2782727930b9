"""Aggregates in a gateway's memory are as fresh as the log says."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from agentos.domain.aggregate import Moment
from agentos.domain.auth import SYSTEM_PRINCIPAL
from agentos.domain.envelope import NO_TRACE, Origin
from agentos.domain.errors import DependencyUnavailableError
from agentos.domain.log import Recorded, make_commit
from agentos.domain.subjects import StreamRef
from agentos.domain.tenant.tenant import Profile, Tenant, tenant_ref
from agentos.gateways.http.followed import Followed
from agentos.infra.clock import SystemClock, SystemIds
from agentos.infra.memory.log import MemoryLog

new_id = SystemIds()
REF = tenant_ref("tnt_a")


def moment() -> Moment:
    return Moment(SystemClock().now_ms(), new_id, Origin(NO_TRACE, SYSTEM_PRINCIPAL))


class CountingLog(MemoryLog):
    """Counts reads, and may be away."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0
        self.is_away = False

    async def read(self, ref: StreamRef, *, after: int = 0) -> list[Recorded]:
        self.reads += 1
        if self.is_away:
            raise DependencyUnavailableError("away", dependency="nats")
        return await super().read(ref, after=after)


async def write(log: MemoryLog, name: str) -> None:
    tenant = Tenant(REF).fold(await MemoryLog.read(log, REF))
    profile = Profile(name=name)
    is_new = tenant.status is None
    events = tenant.create(profile, moment()) if is_new else tenant.update(profile, moment())
    await log.append(make_commit(REF, events, new_id), expected=tenant.position)


@asynccontextmanager
async def followed(log: MemoryLog) -> AsyncIterator[Followed]:
    known = Followed(log, ("tenant",))
    task = asyncio.create_task(known.run())
    try:
        yield known
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def named(known: Followed, name: str) -> None:
    async with asyncio.timeout(5):
        while True:
            await known.get(Tenant, REF)
            tenant = known.peek(Tenant, REF)
            if tenant is not None and tenant.profile.name == name:
                return
            await asyncio.sleep(0.005)


async def test_it_reads_once_and_again_when_the_log_has_moved() -> None:
    log = CountingLog()
    await write(log, "one")
    async with followed(log) as known:
        await named(known, "one")
        reads = log.reads
        assert (await known.get(Tenant, REF)).profile.name == "one"
        assert log.reads == reads
        moved: list[StreamRef] = []
        known.on_moved.append(moved.append)
        await write(log, "two")
        await named(known, "two")
        assert moved == [REF]


async def test_what_is_not_there_is_at_position_0_until_the_log_says_else() -> None:
    log = CountingLog()
    async with followed(log) as known:
        assert (await known.get(Tenant, REF)).position == 0
        await write(log, "one")
        assert (await known.reload(Tenant, REF)).profile.name == "one"
        await named(known, "one")


async def test_what_is_not_there_is_not_asked_for_at_every_call() -> None:
    log = CountingLog()
    async with followed(log) as known:
        async with asyncio.timeout(5):
            while known.peek(Tenant, REF) is None:
                await known.get(Tenant, REF)
                await asyncio.sleep(0.001)
        reads = log.reads
        for _ in range(10):
            assert (await known.get(Tenant, REF)).position == 0
        assert log.reads == reads


async def test_a_log_that_is_away_is_an_error_not_an_empty_answer() -> None:
    log = CountingLog()
    async with followed(log) as known:
        log.is_away = True
        with pytest.raises(DependencyUnavailableError):
            await known.get(Tenant, REF)


async def test_readers_at_once_fold_every_event_once() -> None:
    log = CountingLog()
    await write(log, "one")
    async with followed(log) as known:
        await asyncio.gather(*(known.reload(Tenant, REF) for _ in range(20)))
        await write(log, "two")
        tenants = await asyncio.gather(*(known.reload(Tenant, REF) for _ in range(20)))
        assert {tenant.sequence for tenant in tenants} == {2}
