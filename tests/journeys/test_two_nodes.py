"""Two nodes on one machine know nothing of one another."""

import asyncio
from collections.abc import Iterator

import pytest

from tests.journeys.real_node import RealNode, lives, real_node

pytestmark = [pytest.mark.slow, pytest.mark.timeout(150)]


@pytest.fixture
def nodes() -> Iterator[tuple[RealNode, RealNode]]:
    with real_node() as first, real_node() as second:
        yield first, second


async def test_two_nodes_side_by_side(nodes: tuple[RealNode, RealNode]) -> None:
    first, second = nodes
    pids = first.pids(), second.pids()
    assert not set(pids[0].values()) & set(pids[1].values())
    servers = [node.runtime() for node in nodes]
    assert servers[0]["nats_url"] != servers[1]["nats_url"]
    assert servers[0]["postgres_dsn"] != servers[1]["postgres_dsn"]
    async with first.client() as here, second.client() as there:
        key = {"idempotency_key": "the same"}
        ours, theirs = await here.start("hello", **key), await there.start("sleep 60000", **key)
        assert (await here.wait(ours))["status"] == "completed"
        # A keyed run's id follows from tenant, principal, agent and key: it may be the same.
        unkeyed = await here.start("hello")
        assert (await here.wait(unkeyed))["status"] == "completed"
        for path in ("", "/wait?timeout_ms=100", "/events"):
            status, answer = await there.ask("GET", f"/v1/runs/{unkeyed}{path}")
            assert (status, answer["error"]["code"]) == (404, "not_found")
        await asyncio.sleep(1)  # lists may lag by so much
        _, listed = await there.ask("GET", "/v1/runs")
        assert [run["run_id"] for run in listed["runs"]] == [theirs]
        assert listed["runs"][0]["status"] == "running"

        await asyncio.to_thread(first.down)
        assert not [pid for pid in pids[0].values() if lives(pid)]
        assert second.pids() == pids[1]
        assert await there.is_ready()
        assert not await here.is_ready()

        done = await asyncio.to_thread(first.command, "nuke", "--hard", "--yes-really")
        assert done.returncode == 0, done.stdout + done.stderr
        assert not first.own_processes()
        assert not [path for path in first.data.rglob("*") if path.is_file()]
        assert second.pids() == pids[1]
        assert (await there.wait(theirs, 0))["status"] == "running"
        status, answer = await there.cancel(theirs)
        assert (status, answer["run"]["status"]) == (200, "canceled")

    await the_port_of_another_is_refused(second)
    await asyncio.to_thread(second.down)
    assert not second.own_processes()


async def the_port_of_another_is_refused(running: RealNode) -> None:
    """A third node that wants the port says so, leaves nothing behind, and harms nobody."""
    third = RealNode()
    third.ports = running.ports
    try:
        done = await asyncio.to_thread(third.command, "up", "--mode", "dev")
        assert done.returncode != 0
        assert str(running.ports["orchestrator"]) in done.stdout + done.stderr
        assert "Traceback" not in done.stdout + done.stderr
        assert not third.own_processes()
    finally:
        third.remove()
    assert running.status()["state"] == "ready"
