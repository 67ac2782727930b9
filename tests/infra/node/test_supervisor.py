"""The supervisor over real servers and stub processes: starts, keeps, stops, explains."""

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from agentos.cli.node_client import describe, stop_node, watch_start
from agentos.infra.node.child import Child, Spec
from agentos.infra.node.control import NoSupervisorError, ask
from agentos.infra.node.leftovers import node_leftovers, supervisors
from agentos.infra.node.marker import update_marker
from agentos.infra.node.paths import NodePaths
from tests.infra.embedded import EmbeddedNats, EmbeddedPostgres, alive, eventually, short_directory
from tests.infra.node.stub_node import environment, start_stub_node


class Node:
    """A stub node of one test."""

    def __init__(self, **more: str) -> None:
        self.root = short_directory()
        self.paths = NodePaths(self.root / "data")
        self.environ = environment(self.paths.data, **more)
        self.supervisors: list[subprocess.Popen[bytes]] = []

    def start(self, *arguments: str) -> list[dict[str, Any]]:
        """Start it and return the events of the start."""
        process = start_stub_node(self.environ, *arguments)
        self.supervisors.append(process)
        return list(watch_start(self.paths, process))

    def processes(self) -> dict[str, dict[str, Any]]:
        """Return its processes by name."""
        found = describe(self.paths)
        return {p["name"]: p for p in found["processes"]} if found else {}

    def remove(self) -> None:
        """Stop all of it and remove its data."""
        stop_node(self.paths)
        for process in self.supervisors:
            process.wait(10)
        shutil.rmtree(self.root, ignore_errors=True)


@pytest.fixture
def make_node() -> Iterator[Callable[..., Node]]:
    nodes: list[Node] = []

    def make(**more: str) -> Node:
        nodes.append(Node(**more))
        return nodes[-1]

    yield make
    for node in nodes:
        node.remove()


def _failure(events: list[dict[str, Any]]) -> dict[str, Any]:
    assert events[-1]["event"] == "failed", events
    return events[-1]


def test_whatever_is_killed_is_back_and_down_leaves_nothing(
    make_node: Callable[..., Node],
) -> None:
    node = make_node()
    assert node.start()[-1]["event"] == "done"
    before = node.processes()
    assert set(before) == {"nats", "postgres", "gateway", "executor-1", "executor-2"}
    for process in before.values():
        os.kill(process["pid"], signal.SIGKILL)

    def is_back() -> bool:
        now = node.processes()
        return all(
            now[name]["state"] == "running" and now[name]["pid"] != process["pid"]
            for name, process in before.items()
        )

    eventually(is_back, within=10)
    assert all(p["restarts"] == 1 for p in node.processes().values())
    dsn = json.loads(node.paths.runtime.read_text())["postgres_dsn"]
    with psycopg.connect(dsn) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    pids = [p["pid"] for p in node.processes().values()]
    assert stop_node(node.paths) == 0
    assert node.supervisors[0].wait(10) == 0
    assert not any(alive(pid) for pid in pids)
    assert not node.paths.control.exists()
    assert json.loads(node.paths.state.read_text())["state"] == "stopped"


def test_what_a_killed_supervisor_leaves_is_ended_by_the_next_start(
    make_node: Callable[..., Node],
) -> None:
    node = make_node()
    node.start()
    orphans = [p["pid"] for p in node.processes().values()]
    node.supervisors[0].kill()
    node.supervisors[0].wait(10)
    with pytest.raises(NoSupervisorError):
        next(ask(node.paths.control, {"op": "status"}))
    assert all(alive(pid) for pid in orphans)
    events = node.start()
    assert events[-1]["event"] == "done"
    assert "processes of an earlier node ended" in events[0]["detail"]
    assert not any(alive(pid) for pid in orphans)


def test_what_a_killed_supervisor_leaves_is_ended_by_down(
    make_node: Callable[..., Node], postgres_server: EmbeddedPostgres
) -> None:
    node = make_node(AGENTOS_POSTGRES_DSN=postgres_server.dsn)
    node.start()
    node.supervisors[0].kill()
    node.supervisors[0].wait(10)
    assert stop_node(node.paths) >= 4
    assert node_leftovers(node.paths) == []


def test_a_second_supervisor_leaves_the_node_to_the_first(
    make_node: Callable[..., Node], postgres_server: EmbeddedPostgres
) -> None:
    node = make_node(AGENTOS_POSTGRES_DSN=postgres_server.dsn)
    node.start()
    pids = {name: p["pid"] for name, p in node.processes().items()}
    assert "postgres" not in pids
    second = start_stub_node(node.environ)
    assert second.wait(10) == 0
    assert {name: p["pid"] for name, p in node.processes().items()} == pids
    assert len(supervisors(node.paths)) == 1


def test_restart_gives_a_new_process_of_the_same_name(
    make_node: Callable[..., Node], postgres_server: EmbeddedPostgres
) -> None:
    node = make_node(AGENTOS_POSTGRES_DSN=postgres_server.dsn)
    node.start()
    before = node.processes()
    answer = next(ask(node.paths.control, {"op": "restart", "service": "executor"}))
    assert {p["name"] for p in answer["restarted"]} == {"executor-1", "executor-2"}
    after = node.processes()
    assert after["executor-1"]["pid"] != before["executor-1"]["pid"]
    assert after["gateway"]["pid"] == before["gateway"]["pid"]
    wrong = next(ask(node.paths.control, {"op": "restart", "service": "nobody"}))
    assert "there are: nats" in wrong["error"]


async def test_restart_does_not_wait_for_the_next_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentos.infra.node.child._FIRST_DELAY", 600.0)
    waits = asyncio.Event()

    def changed() -> None:
        if child.state == "restarting":
            waits.set()

    spec = Spec(name="sleeper", argv=["/bin/sleep", "3600"], directory=tmp_path)
    child = Child(spec, tmp_path / "log", lambda *_, **__: None, changed)
    await child.start()
    try:
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        await asyncio.wait_for(waits.wait(), 20)
        await asyncio.wait_for(child.restart(), 20)
        assert (child.state, child.restarts) == ("running", 1)
        before = child.pid
        await asyncio.wait_for(child.restart(), 20)
        assert (child.state, child.restarts) == ("running", 2)
        assert child.pid not in (before, None)
    finally:
        await child.stop()


def test_two_nodes_live_side_by_side(
    make_node: Callable[..., Node], postgres_server: EmbeddedPostgres
) -> None:
    one = make_node(AGENTOS_POSTGRES_DSN=postgres_server.dsn)
    two = make_node(AGENTOS_POSTGRES_DSN=postgres_server.dsn)
    assert one.start()[-1]["event"] == "done"
    assert two.start()[-1]["event"] == "done"
    stop_node(one.paths)
    assert all(alive(p["pid"]) for p in two.processes().values())


def test_a_process_that_keeps_dying_fails_the_start_with_its_log(
    make_node: Callable[..., Node], postgres_server: EmbeddedPostgres
) -> None:
    node = make_node(AGENTOS_POSTGRES_DSN=postgres_server.dsn)
    failure = _failure(node.start("dying"))
    assert failure["check"] == "dying"
    assert failure["next"] == "agentos logs dying"
    assert "the reason it dies" in failure["log"]
    assert node.supervisors[0].wait(10) == 1
    assert node_leftovers(node.paths) == []


def test_a_port_that_is_taken_is_named_with_its_holder(make_node: Callable[..., Node]) -> None:
    node = make_node()
    with socket.create_server(("127.0.0.1", int(node.environ["AGENTOS_FEDERATION_PORT"]))):
        failure = _failure(node.start())
    holder = f"{psutil.Process().name()} (pid {os.getpid()})"
    assert f"(federation) is taken by {holder}" in failure["message"]
    assert "AGENTOS_FEDERATION_PORT" in failure["next"]


def test_a_log_that_vanished_is_never_begun_anew_and_nothing_is_left_running(
    make_node: Callable[..., Node],
) -> None:
    node = make_node()
    node.paths.create()
    update_marker(node.paths, log_created=True)
    failure = _failure(node.start())
    assert failure["check"] == "log"
    assert "is gone" in failure["message"]
    assert node.supervisors[0].wait(10) == 1
    assert node_leftovers(node.paths) == []


def test_a_data_directory_of_a_newer_layout_and_a_full_disk_are_refused(
    make_node: Callable[..., Node],
) -> None:
    node = make_node(AGENTOS_MIN_FREE_MB=str(2**40))
    assert "MB are needed" in _failure(node.start())["message"]
    update_marker(node.paths)
    marker = node.paths.marker
    marker.write_text(marker.read_text().replace('"layout": 1', '"layout": 2'))
    assert "has layout 2" in _failure(node.start())["message"]


def test_the_first_line_of_the_log_says_the_durability(make_node: Callable[..., Node]) -> None:
    node = make_node(AGENTOS_MIN_FREE_MB=str(2**40), AGENTOS_DURABILITY="power")
    node.start()
    first = json.loads(node.paths.log_of("supervisor").read_text().splitlines()[0])
    assert first["message"] == "starting; durability: power (fsync before acknowledgement)"
    assert set(first) >= {"time", "level", "service", "message"}


def test_a_long_path_gets_a_short_socket(tmp_path: Path) -> None:
    paths = NodePaths(tmp_path / ("x" * 120))
    assert len(str(paths.control)) < 100
    assert str(NodePaths(Path("/srv/n")).control) == "/srv/n/run/control.sock"


def test_with_servers_of_someone_else_none_is_started(
    make_node: Callable[..., Node], postgres_server: EmbeddedPostgres, nats_server: EmbeddedNats
) -> None:
    node = make_node(
        AGENTOS_NATS_URL=nats_server.url,
        AGENTOS_POSTGRES_DSN=postgres_server.dsn,
        AGENTOS_DURABILITY="power",
    )
    done = node.start()[-1]
    assert done["event"] == "done"
    assert done["durability"].endswith("declared, not verified")
    assert set(node.processes()) == {"gateway", "executor-1", "executor-2"}
    assert nats_server.server.password not in node.paths.runtime.read_text()
    assert nats_server.server.password not in node.paths.state.read_text()


def test_two_starts_at_once_are_one_node(
    make_node: Callable[..., Node], postgres_server: EmbeddedPostgres
) -> None:
    node = make_node(AGENTOS_POSTGRES_DSN=postgres_server.dsn)
    both = [start_stub_node(node.environ) for _ in range(2)]
    node.supervisors += both
    for process in both:
        assert list(watch_start(node.paths, process))[-1]["event"] == "done"
    eventually(lambda: sorted(str(p.poll()) for p in both) == ["0", "None"])
    assert len(supervisors(node.paths)) == 1


def test_a_stop_in_the_middle_of_a_start_leaves_nothing(make_node: Callable[..., Node]) -> None:
    node = make_node()
    process = start_stub_node(node.environ)
    node.supervisors.append(process)
    eventually(lambda: describe(node.paths) is not None)
    stop_node(node.paths)
    assert process.wait(10) == 0
    assert node_leftovers(node.paths) == []


def test_a_broker_that_met_a_full_disk_is_started_anew_when_there_is_room(
    make_node: Callable[..., Node], postgres_server: EmbeddedPostgres
) -> None:
    node = make_node(AGENTOS_POSTGRES_DSN=postgres_server.dsn)
    node.start()
    before = node.processes()["nats"]["pid"]
    with node.paths.log_of("nats").open("a") as log:
        log.write("[ERR] JetStream failed to store a msg: no space left on device\n")
    eventually(lambda: node.processes()["nats"]["pid"] not in (before, None))
    eventually(lambda: node.processes()["nats"]["state"] == "running")
