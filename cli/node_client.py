"""How the commands reach a node's supervisor, start it, and end it."""

import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from agentos.infra.node.control import NoSupervisorError, ask
from agentos.infra.node.errors import NodeError
from agentos.infra.node.files import read_object
from agentos.infra.node.leftovers import (
    SUPERVISOR_MODULE,
    end_processes,
    kill_processes,
    node_leftovers,
    supervisors,
)
from agentos.infra.node.logfiles import tail_of
from agentos.infra.node.paths import NodePaths
from agentos.infra.settings import Settings

_ANSWERS_WITHIN = 15.0


def describe(paths: NodePaths) -> dict[str, Any] | None:
    """Return what the living supervisor says of its node; None when there is none."""
    try:
        return next(ask(paths.control, {"op": "status"}, timeout=5), None)
    except NoSupervisorError:
        return None


def start_supervisor(settings: Settings) -> "subprocess.Popen[bytes]":
    """Start the supervisor in the background, in a session of its own."""
    paths = NodePaths(settings.data_dir)
    with paths.log_of("supervisor").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", SUPERVISOR_MODULE, paths.mark],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=paths.data,
            env=settings.child_environment(),
            start_new_session=True,
        )


def watch_start(
    paths: NodePaths, process: "subprocess.Popen[bytes] | None"
) -> Iterator[dict[str, Any]]:
    """Yield the events of the start, from its first to `done` or `failed`.

    `process` is the supervisor just started, None when another one is followed. Raises
    `NodeError` when no supervisor comes up.
    """
    deadline = time.monotonic() + _ANSWERS_WITHIN
    while time.monotonic() < deadline:
        try:
            yield from ask(paths.control, {"op": "watch"}, timeout=120)
            return
        except NoSupervisorError:
            if process and process.poll() not in (None, 0):
                break
            time.sleep(0.02)
    written = read_object(paths.state)
    if process and written.get("events") and written["supervisor"]["pid"] == process.pid:
        yield from written["events"]
        return
    lines = "\n".join(tail_of(paths, "supervisor", 5))
    raise NodeError("supervisor", f"the supervisor did not start:\n{lines}", "agentos doctor")


def stop_node(paths: NodePaths) -> int:
    """Stop the node and whatever is left of it; return how many processes were left over.

    Does nothing when nothing runs.
    """
    try:
        for _ in ask(paths.control, {"op": "stop"}, timeout=60):
            continue
        _wait_for_end(paths)
    except NoSupervisorError:
        pass
    kill_processes(supervisors(paths))
    left = node_leftovers(paths)
    end_processes(left)
    return len(left)


def _wait_for_end(paths: NodePaths) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and supervisors(paths):
        time.sleep(0.02)
