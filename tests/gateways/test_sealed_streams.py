"""Sealed commits at the gateway's one tail: opened for who listens, passed by for all others."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from agentos.domain.errors import AgentOSError
from agentos.domain.log import Recorded
from agentos.domain.run.run import run_ref
from agentos.gateways.http.tail import Framed, SharedTail
from agentos.infra.privacy.sealed_log import SealedLog
from tests.infra.privacy.given import KEY, Process
from tests.infra.privacy.test_sealed_log import WORD, of_a_run


class Opener(SealedLog):
    """Counts what it opens."""

    opened = 0

    async def open(self, record: Recorded) -> Recorded:
        self.opened += 1
        return await super().open(record)


class Listener:
    """Keeps what it is offered."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.misses = 0
        self.heard = asyncio.Event()

    def offer(self, framed: Framed) -> None:
        self.frames.append(framed.run_chunk)
        self.heard.set()

    def missed(self) -> None:
        self.misses += 1

    def cut(self, error: AgentOSError) -> None:
        """Nobody cuts it."""


@asynccontextmanager
async def tailed(here: Process) -> AsyncIterator[tuple[SharedTail, Opener]]:
    opener = Opener(here.raw, here.keys)
    tail = SharedTail(opener, opener)
    running = asyncio.create_task(tail.run())
    try:
        async with asyncio.timeout(10):
            await tail.reached.wait()
        yield tail, opener
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def reached(tail: SharedTail, position: int) -> None:
    async with asyncio.timeout(10):
        while (tail.position or 0) < position:  # noqa: ASYNC110 - the tail's own task moves it
            await asyncio.sleep(0.01)


@pytest.fixture
async def here() -> Process:
    process = Process()
    await process.keys.make("tnt_a", KEY)
    return process


async def test_a_listener_is_offered_the_opened_commit(here: Process) -> None:
    first, last, _ = of_a_run()
    async with tailed(here) as (tail, opener):
        listener = Listener()
        with tail.listening_to(run_ref("tnt_a", "run_1"), listener):
            at = await here.log.append(first, expected=0)
            await reached(tail, await here.log.append(last, expected=at))
        assert opener.opened == 2
        assert all(WORD in frame for frame in listener.frames)
        assert [frame.count(b"\nid: ") for frame in listener.frames] == [1, 2]


async def test_what_nobody_listens_to_is_not_opened(here: Process) -> None:
    first, last, _ = of_a_run()
    async with tailed(here) as (tail, opener):
        other = Listener()
        with tail.listening_to(run_ref("tnt_a", "run_other"), other):
            at = await here.log.append(first, expected=0)
            await reached(tail, await here.log.append(last, expected=at))
        assert opener.opened == 0
        assert other.frames == []


async def test_plain_commits_are_never_opened(here: Process) -> None:
    first, _, _ = of_a_run(sealed="")
    async with tailed(here) as (tail, opener):
        listener = Listener()
        with tail.listening_to(run_ref("tnt_a", "run_1"), listener):
            await reached(tail, await here.raw.append(first, expected=0))
        assert opener.opened == 0
        assert WORD in listener.frames[0]


async def test_after_an_erasure_it_is_offered_the_marker(here: Process) -> None:
    first, last, _ = of_a_run()
    async with tailed(here) as (tail, _):
        listener = Listener()
        with tail.listening_to(run_ref("tnt_a", "run_1"), listener):
            at = await here.log.append(first, expected=0)
            await reached(tail, at)
            await here.keys.destroy("tnt_a", KEY)
            await reached(tail, await here.log.append(last, expected=at))
        assert WORD in listener.frames[0]
        assert WORD not in listener.frames[1]
        assert b"[erased]" in listener.frames[1]


async def test_what_does_not_open_holds_up_nobody_else(here: Process) -> None:
    first, _, _ = of_a_run()
    plain = replace(of_a_run(sealed="")[0], ref=run_ref("tnt_b", "run_b"))
    async with tailed(Process(raw=here.raw)) as (tail, opener):
        await opener._keys.make("tnt_a", KEY)  # another key under the same name
        mine, other = Listener(), Listener()
        with (
            tail.listening_to(run_ref("tnt_a", "run_1"), mine),
            tail.listening_to(run_ref("tnt_b", "run_b"), other),
        ):
            before = mine.misses
            await here.log.append(first, expected=0)
            await reached(tail, await here.raw.append(plain, expected=0))
        assert (mine.frames, mine.misses) == ([], before + 1)
        assert len(other.frames) == 1
