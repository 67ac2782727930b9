"""What was left open stays open until there is a definite answer, and holds up nothing else."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from agentos.domain.errors import ConflictError
from agentos.domain.federation.forward import Forward, forward_ref
from agentos.domain.subjects import StreamRef
from agentos.federation import unfinished
from agentos.federation.unfinished import Unfinished
from agentos.infra.memory.log import MemoryLog
from tests.federation.fake_peer import RUN, FakePeer, run_of
from tests.federation.node import FedNode
from tests.gateways.conftest import eventually

FAKE = {"stack_id": "stk_fake"}
FIRST, SECOND = forward_ref("tnt_a", "fwd_1"), forward_ref("tnt_a", "fwd_2")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing wait long."""
    monkeypatch.setattr(unfinished, "LOOK_S", 0.01)
    monkeypatch.setattr(unfinished, "FIRST_PAUSE_S", 0.05)
    monkeypatch.setattr(unfinished, "LONGEST_PAUSE_S", 0.2)


@asynccontextmanager
async def running(settle: Any) -> AsyncIterator[Unfinished]:
    """Give what settles so, at work."""
    left = Unfinished(settle)
    task = asyncio.create_task(left.run())
    try:
        yield left
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("error", [TypeError("got 'message' twice"), ConflictError("no")])
async def test_whatever_is_raised_the_work_goes_on_and_tries_again(error: Exception) -> None:
    tried: list[StreamRef] = []

    async def settle(ref: StreamRef) -> None:
        tried.append(ref)
        if ref == FIRST and tried.count(FIRST) < 4:
            raise error

    async with running(settle) as left:
        left.add(FIRST, "a test")
        left.add(SECOND, "a test")
        await eventually(lambda: not len(left))
    assert (tried.count(FIRST), tried.count(SECOND)) == (4, 1)


async def test_one_that_hangs_holds_up_no_other() -> None:
    done: list[StreamRef] = []
    never = asyncio.Event()

    async def settle(ref: StreamRef) -> None:
        if ref == FIRST:
            await never.wait()
        done.append(ref)

    async with running(settle) as left:
        left.add(FIRST, "a test")
        left.add(SECOND, "a test")
        await eventually(lambda: done == [SECOND])
        assert len(left) == 1


async def test_only_so_many_are_tried_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unfinished, "AT_ONCE", 3)
    busy, most, hold = 0, 0, asyncio.Event()

    async def settle(ref: StreamRef) -> None:
        nonlocal busy, most
        busy += 1
        most = max(most, busy)
        await hold.wait()
        busy -= 1

    async with running(settle) as left:
        for at in range(10):
            left.add(forward_ref("tnt_a", f"fwd_{at}"), "a test")
        await eventually(lambda: busy == 3)
        hold.set()
        await eventually(lambda: not len(left))
    assert most == 3


async def the_forward(node: FedNode) -> Forward:
    """Return the one forward that the log has, as it stands."""
    last = await MemoryLog.last_of_kind(node.door.log, "federation", "tnt_a")
    ref = last[-1].ref
    return Forward(ref).fold(await MemoryLog.read(node.door.log, ref))


async def settled(node: FedNode, status: str) -> Forward:
    """Wait until the forward has that status."""
    async with asyncio.timeout(20):
        while (found := await the_forward(node)).status != status:  # noqa: ASYNC110 - a log
            await asyncio.sleep(0.02)
    return found


async def answered_but_not_written(node: FedNode) -> str:
    """Forward a run whose caller hears 200, and whose result the process does not live to write.

    Returns the forward's id.
    """
    real, called = node.door.bus.handlers["forward.accept"], asyncio.Event()

    async def dies(*_: Any) -> dict[str, Any]:
        called.set()
        await asyncio.Event().wait()
        return {}

    node.door.bus.handlers["forward.accept"] = dies
    status, body = await node.forward(FAKE, key="k")
    assert status == 200
    await called.wait()
    node.door.bus.handlers["forward.accept"] = real
    return str(body["forwarded"]["forward_id"])


AWAY: list[Any] = [
    "cut",
    (503, {}),
    (401, {"error": {"code": "unauthorized"}}),
    (429, {"error": {"code": "quota_exceeded"}, "headers": {"x-should-retry": "false"}}),
    (500, {"error": {"code": "conflict"}, "headers": {"x-should-retry": "false"}}),
]


@pytest.mark.parametrize("away", AWAY)
async def test_what_was_answered_is_not_written_as_failed_while_the_peer_is_away(
    node: FedNode, fake: FakePeer, away: Any
) -> None:
    forward_id = await answered_but_not_written(node)
    fake.answers = [away]
    before = len(fake.created)
    await node.restart()
    await eventually(lambda: len(fake.created) >= before + 4)  # more than one round of attempts
    assert (await the_forward(node)).status == "requested"
    status, _ = await node.forward(FAKE, key="k")  # who asks now hears that it is away
    assert status >= 400
    assert (await the_forward(node)).status == "requested"
    fake.answers = [(200, run_of())]
    found = await settled(node, "accepted")
    assert found.ref.aggregate_id == forward_id
    assert found.accepted is not None
    assert found.accepted.remote_run_id == RUN
    assert {sent["idempotency_key"] for sent in fake.created} == {"k"}


async def test_a_definite_no_ends_it(node: FedNode, fake: FakePeer) -> None:
    await answered_but_not_written(node)
    fake.answers = [(503, {}), (403, {"error": {"code": "tenant_disabled", "message": "no"}})]
    await node.restart()
    found = await settled(node, "failed")
    assert found.error is not None
    assert found.error.code == "tenant_disabled"


async def test_one_whose_key_is_forgotten_over_there_is_not_sent_again(
    node: FedNode, fake: FakePeer
) -> None:
    await answered_but_not_written(node)
    before = len(fake.created)
    node.options["idempotency_ttl_ms"] = -(10**13)  # the clock behind the log is a virtual one
    await node.restart()
    found = await settled(node, "failed")
    assert found.error is not None
    assert found.error.code == "forward_failed"
    assert len(fake.created) == before
