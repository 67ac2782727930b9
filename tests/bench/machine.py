"""The machine under the measurement, and what processes cost on it."""

import os
import platform
import resource
import signal
import tempfile
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil


def describe_machine() -> dict[str, Any]:
    """Return processor, memory, system, date and load, all of it as text or numbers."""
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "load_average": os.getloadavg()[0],
    }


def end_cleanly_on_sigterm() -> None:
    """Treat SIGTERM as Ctrl-C, so that servers are stopped and directories removed on the way."""
    signal.signal(signal.SIGTERM, lambda _number, _frame: signal.raise_signal(signal.SIGINT))


def fsyncs_per_second(size: int, seconds: float = 1.0) -> float:
    """Return how often a second this disk takes `size` bytes appended and made durable."""
    with tempfile.NamedTemporaryFile(prefix="aos-fsync-") as file:
        data, done, began = b"x" * size, 0, time.perf_counter()
        while (passed := time.perf_counter() - began) < seconds:
            os.write(file.fileno(), data)
            os.fsync(file.fileno())
            done += 1
    return done / passed


def raise_file_limit() -> int:
    """Let this process and its children open as many files as they may; returns how many."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def families(pids: Mapping[str, int]) -> dict[str, list[psutil.Process]]:
    """Return each named process with what it started, but for what has a name of its own.

    So PostgreSQL comes with its backends, and the supervisor without the processes it keeps.
    """
    named = set(pids.values())
    return {name: _family(psutil.Process(pid), named) for name, pid in pids.items()}


def _family(process: psutil.Process, named: set[int]) -> list[psutil.Process]:
    found = [process]
    for child in _children(process):
        if child.pid not in named:
            found += _family(child, named)
    return found


def _children(process: psutil.Process) -> list[psutil.Process]:
    """Return a process's children; any process of the machine that ends meanwhile fails psutil."""
    for _ in range(20):
        try:
            return list(process.children())
        except psutil.NoSuchProcess:
            if not process.is_running():
                break
    return []


def pss_mb(pids: Mapping[str, int]) -> dict[str, float]:
    """Return the proportional memory of each named process with its family, in MiB."""
    return {name: _pss(family) for name, family in families(pids).items()}


def _pss(processes: Iterable[psutil.Process]) -> float:
    total = 0
    for process in processes:
        try:
            text = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += next(int(li.split()[1]) for li in text.splitlines() if li.startswith("Pss:"))
    return total / 1024


def rss_mb(pid: int) -> float:
    """Return the resident memory of one process, in MiB."""
    return float(psutil.Process(pid).memory_info().rss) / 2**20


def cpu_seconds(pids: Mapping[str, int]) -> dict[str, float]:
    """Return the processor time that each named process with its family has used."""
    return {name: _cpu(family) for name, family in families(pids).items()}


class Meter:
    """Adds up what named processes use between `start` and `stop`."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._before: dict[str, float] = {}

    def start(self, pids: Mapping[str, int]) -> None:
        """Begin to count."""
        self._before = cpu_seconds(pids)

    def stop(self, pids: Mapping[str, int]) -> None:
        """Count what was used since `start`."""
        for name, now in cpu_seconds(pids).items():
            used = now - self._before.get(name, 0.0)
            self.seconds[name] = self.seconds.get(name, 0.0) + used


def _cpu(processes: Iterable[psutil.Process]) -> float:
    total = 0.0
    for process in processes:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total
