"""Events over the brokers: believed no more than over HTTP, and HTTP has what they do not bring."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from agentos.domain.errors import InternalError
from agentos.domain.federation.peer import PeerEntry
from agentos.domain.federation.remote import GapFilled, GapFound, remote_ref
from agentos.domain.run.run import run_ref
from agentos.federation import backhaul, links, progress
from agentos.infra.memory.log import MemoryLog
from tests.federation.fake_peer import RUN, FakePeer, event, final, frame, run_of
from tests.federation.memory_links import MemoryInbox, MemoryOutbox, taken
from tests.federation.node import FedNode, two_nodes
from tests.gateways.conftest import eventually

FAKE = {"stack_id": "stk_fake"}
WHOLE = [event(1), event(2), event(3), final(4)]


@pytest.fixture
def inbox() -> MemoryInbox:
    """What the brokers bring from the fake peer."""
    return MemoryInbox()


@pytest.fixture
async def node(fake_entry: PeerEntry, inbox: MemoryInbox) -> AsyncIterator[FedNode]:
    """A node that is linked with the fake peer."""
    opened = await FedNode("stk_a", inboxes=(inbox,)).open([fake_entry])
    await eventually(lambda: link_of(opened).is_live)
    yield opened
    await opened.close()


def link_of(node: FedNode, stack_id: str = "stk_fake") -> links.Link:
    """Return a node's link."""
    federation = node.door.gateway._federation
    assert federation is not None
    return federation.links[stack_id]


async def types_of(node: FedNode, run_id: str = RUN) -> list[str]:
    """Return the types of what was written of a copy."""
    records = await MemoryLog.read(node.door.log, remote_ref("tnt_a", run_id))
    return [name for record in records for name in record.types]


def serve(fake: FakePeer, *events: dict[str, Any]) -> None:
    """Let the peer's own stream give these events."""
    fake.streams = lambda after: [frame(e) for e in events if e["event"]["sequence"] > after]


async def ended(node: FedNode, run_id: str = RUN) -> None:
    """Wait until a copy is whole."""
    async with asyncio.timeout(15):
        while not (await node.remote(run_id)).has_ended:  # noqa: ASYNC110 - a log has no event
            await asyncio.sleep(0.02)


async def test_what_the_brokers_bring_is_copied_and_struck_off(
    node: FedNode, fake: FakePeer, inbox: MemoryInbox
) -> None:
    inbox.put(taken(event(1)))  # the peer is quicker than its answer
    await node.forward(FAKE)
    inbox.put(taken(event(2), event(3)), taken(final(4)))
    await ended(node)
    await eventually(lambda: len(inbox.struck) == 3)
    assert fake.asked_after == []
    assert GapFilled.TYPE not in await types_of(node)
    peer = (await node.peers_now())["stk_fake"]
    assert (peer["events_by"], peer["leaf"]["state"], peer["leaf"]["events"]) == ("leaf", "live", 4)


async def test_repeats_and_another_order_are_one_copy(
    node: FedNode, fake: FakePeer, inbox: MemoryInbox
) -> None:
    inbox.put(taken(event(2), event(3)), taken(event(1)), taken(event(1)))
    await node.forward(FAKE)
    inbox.put(taken(event(2), event(3)), taken(final(4)))
    await ended(node)
    assert len(await node.copied(RUN)) == 4
    await eventually(lambda: len(inbox.struck) == 5)


async def test_a_link_that_goes_down_falls_over_to_http_and_says_so(
    node: FedNode, fake: FakePeer, inbox: MemoryInbox
) -> None:
    inbox.put(taken(event(1)))
    await node.forward(FAKE)
    await node.wait_copied(RUN, 1)
    serve(fake, *WHOLE)
    inbox.why = "the cable is out"
    await ended(node)
    assert fake.asked_after[0] == 1
    assert GapFilled.TYPE in await types_of(node)
    peer = (await node.peers_now())["stk_fake"]
    assert (peer["events_by"], peer["leaf"]["state"]) == ("http", "down")
    assert (peer["leaf"]["reason"], peer["leaf"]["fell_over"]) == ("the cable is out", 1)
    inbox.why = ""
    await eventually(lambda: link_of(node).is_live)
    other = "run_01JD7K3V9YQ4M8R2T6W0X5Z1AC"
    fake.answers = [(201, run_of(other))]
    asked = len(fake.asked_after)
    await node.forward(FAKE)
    inbox.put(
        taken(event(1, run_id=other), {"event": final(2)["event"] | {"run_id": other}}, run=other)
    )
    await ended(node, other)
    assert len(fake.asked_after) == asked


async def test_what_the_brokers_skipped_comes_over_http(
    node: FedNode, fake: FakePeer, inbox: MemoryInbox
) -> None:
    serve(fake, *WHOLE)
    inbox.put(taken(event(1)), taken(event(3)))
    await node.forward(FAKE)
    await ended(node)
    assert fake.asked_after[0] == 1
    assert len(await node.copied(RUN)) == 4
    assert GapFilled.TYPE in await types_of(node)


@pytest.mark.parametrize("how", ["tenant", "run", "sequence", "nonsense"])
async def test_a_peer_that_lies_over_the_brokers_is_not_believed(
    node: FedNode, fake: FakePeer, inbox: MemoryInbox, how: str
) -> None:
    lies = {
        "tenant": taken(event(1, tenant_id="tnt_b")),
        "run": taken(event(1, run_id="run_other")),
        "sequence": taken(event(2))._replace(first_sequence=1),
        "nonsense": taken(event(1))._replace(lines=(b"\xff",)),
    }
    inbox.put(lies[how])
    await node.forward(FAKE)
    async with asyncio.timeout(10):
        while GapFound.TYPE not in await types_of(node):  # noqa: ASYNC110 - a log has no event
            await asyncio.sleep(0.02)
    assert await node.copied(RUN) == []
    await eventually(lambda: inbox.struck)


async def test_what_no_copy_asks_for_is_struck_off(
    node: FedNode, inbox: MemoryInbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "UNWANTED_S", 0.0)
    inbox.put(taken(event(1), tenant="tnt_b"), taken(event(5), run="run_nobody"))
    await eventually(lambda: len(inbox.struck) == 2)
    assert await types_of(node) == []


async def test_too_much_that_waits_is_given_up(
    node: FedNode, fake: FakePeer, inbox: MemoryInbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "RUNS", 1)
    inbox.put(taken(event(1)), taken(event(1), run="run_nobody"))
    await eventually(lambda: len(inbox.struck) == 1)
    serve(fake, *WHOLE)
    await node.forward(FAKE)
    inbox.put(taken(event(3)))
    await ended(node)  # what was given up was fetched
    assert len(await node.copied(RUN)) == 4


async def test_a_peer_is_given_the_runs_that_came_through_it_and_no_others() -> None:
    box, none = MemoryOutbox("stk_a"), MemoryOutbox("stk_c")
    options = {"outboxes": (box, none), "tenants": ("tnt_a", "tnt_b")}
    async with two_nodes(b=options, to_a={"tenants": ["tnt_a"]}) as (a, b):
        run = {"input": {"type": "text", "text": "hi"}}
        status, own = await b.call("POST", "/v1/agents/agt_a/runs", door=0, json=run)
        assert status == 201
        _, body = await a.forward({"stack_id": "stk_b"})
        run_id = body["forwarded"]["remote_run_id"]
        await b.step(own["run"]["run_id"])
        await b.step(run_id)
        await b.end(run_id)
        await eventually(lambda: len(box.given) == 3)
        assert {g.ref.aggregate_id for g in box.given} == {run_id}
        assert [g.first_sequence for g in box.given] == [1, 2, 3]
        lines = [line for g in box.given for line in g.body.split(b"\n")]
        assert lines == await b.lines(run_id)
        # the next process goes on behind what was given
        kept = list(box.given)
        _, body = await a.forward({"stack_id": "stk_b"})
        second = body["forwarded"]["remote_run_id"]
        await b.restart()
        await b.step(second)
        await eventually(lambda: len(box.given) >= len(kept) + 2)
        assert [g.ref.aggregate_id for g in box.given[3:]] == [second, second]
        assert none.given == []


async def test_a_tenant_that_the_peer_may_not_act_for_is_not_given() -> None:
    box = MemoryOutbox("stk_a")
    async with two_nodes(b={"outboxes": (box,)}) as (a, b):
        _, body = await a.forward({"stack_id": "stk_b"})
        first = body["forwarded"]["remote_run_id"]
        await eventually(lambda: len(box.given) == 1)
        federation = b.door.gateway._federation
        assert federation is not None
        known = federation.book.get("stk_a")
        assert known is not None
        known.entry = known.entry.model_copy(update={"tenants": ("tnt_other",)})
        await b.step(first)
        run = {"input": {"type": "text", "text": "hi"}}
        _, own = await b.call("POST", "/v1/agents/agt_a/runs", door=0, json=run)
        ref = run_ref("tnt_a", own["run"]["run_id"])
        await eventually(lambda: ref in federation.feeder._origins)  # the step has passed
        known.entry = known.entry.model_copy(update={"tenants": ("*",)})
        _, body = await a.forward({"stack_id": "stk_b"})
        await eventually(lambda: len(box.given) == 2)
        assert box.given[1].ref.aggregate_id == body["forwarded"]["remote_run_id"]


async def test_room_is_made_for_bytes_and_followed_runs_stay_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    link = links.Link(inbox := MemoryInbox())
    followed = taken(event(1))
    async with link.following(remote_ref("tnt_a", RUN)) as waiting:
        link._keep(followed)
        monkeypatch.setattr(links, "RUNS", 1)
        link._keep(taken(event(1), run="run_nobody"))
        assert list(waiting.pieces) == [1]
        assert inbox.struck == [b"token.run_nobody.1"]
        monkeypatch.setattr(links, "MAX_BYTES", 0)
        link._keep(taken(event(2)))
        assert waiting.pieces == {}
        monkeypatch.setattr(links, "MAX_BYTES", 10**6)
        link._keep(taken(event(3)))
        assert list(waiting.pieces) == [3]  # what comes next finds its copy
    assert link._bytes == 0
    assert not link._runs


async def test_the_end_of_one_copy_does_not_take_what_came_for_the_next() -> None:
    link = links.Link(MemoryInbox())
    ref = remote_ref("tnt_a", RUN)
    async with link.following(ref):
        other = link._runs[ref] = links.Waiting(link, 0.0)
        link._keep(taken(event(1)))
    assert link._runs[ref] is other
    assert list(other.pieces) == [1]


async def test_a_copy_that_a_handler_cannot_write_goes_on_later(
    node: FedNode, inbox: MemoryInbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backhaul, "REFUSED_PAUSE_S", 0.05)
    real, tried = node.door.bus.handlers["remote.copy"], 0

    async def breaks(*given: Any) -> dict[str, Any]:
        nonlocal tried
        tried += 1
        if tried < 3:
            raise InternalError("something of ours broke")
        return await real(*given)

    node.door.bus.handlers["remote.copy"] = breaks
    inbox.put(taken(*WHOLE))
    await node.forward(FAKE)
    for _ in range(200):
        if (await node.remote(RUN)).has_ended:
            break
        inbox.put(taken(*WHOLE))
        await asyncio.sleep(0.05)
    assert (await node.remote(RUN)).has_ended
    assert tried >= 3


def test_a_commands_worth_is_cut_by_bytes() -> None:
    large = b"x" * (progress.COMMAND_BYTES // 2 + 1)
    assert progress.worth([large, large]) == 1
    assert progress.worth([large * 3, b"x"]) == 1
    assert progress.worth([b"x"] * (progress.COMMAND_LINES + 1)) == progress.COMMAND_LINES
    assert progress.worth([]) == 0
