"""Processes that outlived their supervisor, found by what only a node's own process shows."""

import contextlib
import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path

import psutil

from agentos.infra.node.files import read_object
from agentos.infra.node.paths import NodePaths

SUPERVISOR_MODULE = "agentos.cli.supervise"


def processes_of(
    arguments: Iterable[str] = (), directories: Iterable[Path] = ()
) -> list[psutil.Process]:
    """Return the living processes that have one of the arguments or work in a directory.

    A pid is never trusted alone: it may have been given to another program since.
    """
    wanted, places = frozenset(arguments), frozenset(map(str, directories))
    return [p for p in psutil.process_iter() if p.pid != os.getpid() and _is_one(p, wanted, places)]


def end_processes(processes: list[psutil.Process], grace: float = 3.0) -> None:
    """Ask the processes to end, kill those that have not after `grace` seconds, wait for all."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            # PostgreSQL waits for its clients on SIGTERM, and for nobody on SIGINT.
            process.send_signal(signal.SIGINT if process.name() == "postgres" else signal.SIGTERM)
    kill_processes(_living_after(processes, grace))


def kill_processes(processes: list[psutil.Process]) -> None:
    """Kill the processes and wait until they are gone."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    _living_after(processes, 5)


def _living_after(processes: list[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Wait until all have ended, a zombie counts as one, or the time is up; return the living."""
    deadline = time.monotonic() + seconds
    while (living := [p for p in processes if _lives(p)]) and time.monotonic() < deadline:
        time.sleep(0.01)
    return living


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _is_one(process: psutil.Process, wanted: frozenset[str], places: frozenset[str]) -> bool:
    with contextlib.suppress(psutil.Error, OSError):
        if not wanted.isdisjoint(process.cmdline()):
            return _lives(process)
        return bool(places) and process.cwd() in places and _lives(process)
    return False


def node_leftovers(paths: NodePaths) -> list[psutil.Process]:
    """Return what lives of the node but its supervisor: its own processes and both servers."""
    home = read_object(paths.data / "postgres.json").get("home", paths.data / "postgres")
    data = Path(home) / "data"
    marks = [paths.mark, str(paths.nats / "nats.conf"), str(data)]
    return [p for p in processes_of(marks, [data]) if not _has(p, SUPERVISOR_MODULE)]


def supervisors(paths: NodePaths) -> list[psutil.Process]:
    """Return the living supervisors of the node."""
    return [p for p in processes_of([paths.mark]) if _has(p, SUPERVISOR_MODULE)]


def _has(process: psutil.Process, argument: str) -> bool:
    with contextlib.suppress(psutil.Error):
        return argument in process.cmdline()
    return False
