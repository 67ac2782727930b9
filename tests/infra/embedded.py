"""Real embedded servers for tests: each in a directory of its own, gone with the test."""

import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from agentos.infra import nats_server as nats
from agentos.infra import postgres_server as postgres
from agentos.infra.node.ports import is_free


def eventually(holds: Callable[[], bool], within: float = 10.0, every: float = 0.02) -> None:
    """Poll until `holds()` is true; fail when the time is up."""
    deadline = time.monotonic() + within
    while not holds():
        assert time.monotonic() < deadline, f"not true within {within} s: {holds}"
        time.sleep(every)


def short_directory() -> Path:
    """Make a directory with a short path that an unprivileged PostgreSQL can enter too."""
    path = Path(tempfile.mkdtemp(prefix="aos-"))
    path.chmod(0o711)
    return path


_ports = itertools.count()


def reserved_port() -> int:
    """Return a free port that no other test worker and no server of ours picks by itself."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    while True:
        port = 10_000 + worker % 3 * 3_000 + (os.getpid() + next(_ports)) % 3_000
        if is_free(port):
            return port


class EmbeddedNats:
    """A real NATS server; `url` stays the same across `restart()` and `kill()` + `start()`."""

    def __init__(self, *, sync_always: bool = False) -> None:
        self.directory = short_directory()
        self.server = nats.configure_nats(self.directory / "nats", sync_always=sync_always)
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The URL with credentials of the AgentOS account."""
        return self.server.url

    def start(self) -> None:
        """Start it and wait until it accepts clients."""
        with (self.directory / "nats.log").open("ab") as log:
            self.process = subprocess.Popen(self.server.argv, stdout=log, stderr=log)
        if not nats.wait_until_ready(self.server, 10):
            raise AssertionError((self.directory / "nats.log").read_text())

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Stop it and wait until it is gone; the data stays."""
        if self.process:
            self.process.send_signal(number)
            self.process.wait(10)
            self.process = None

    def kill(self) -> None:
        """End it as a crash does (`kill -9`); `start()` brings it back with its data."""
        self.stop(signal.SIGKILL)

    def restart(self) -> None:
        """Kill it and start it again with its data."""
        self.kill()
        self.start()

    def remove(self) -> None:
        """Stop it and remove its data."""
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)


class EmbeddedPostgres:
    """A real PostgreSQL with an empty database `agentos`."""

    def __init__(self) -> None:
        self.directory = short_directory()
        self.server = postgres.configure_postgres(self.directory)
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def dsn(self) -> str:
        """The connection string."""
        return self.server.dsn

    def start(self) -> None:
        """Start it and wait until it accepts clients."""
        with (self.directory / "postgres.log").open("ab") as log:
            self.process = subprocess.Popen(
                self.server.argv,
                stdout=log,
                stderr=log,
                cwd=self.server.home,
                **self.server.run_as,
            )
        if not postgres.wait_until_ready(self.server, 10):
            raise AssertionError((self.directory / "postgres.log").read_text())

    def stop(self) -> None:
        """Stop it and wait until it is gone; the data stays."""
        if self.process:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(10)
            self.process = None

    def kill(self) -> None:
        """End it as a crash does (`kill -9`), with all that belongs to it."""
        if self.process:
            self.process.kill()
            self.process.wait(10)
            self.process = None
            postgres.end_leftovers(self.server)

    def restart(self) -> None:
        """Kill it and start it again with its data."""
        self.kill()
        self.start()

    def remove(self) -> None:
        """Stop it and remove its data."""
        self.stop()
        for path in (self.server.socket_dir, self.server.home, self.directory):
            shutil.rmtree(path, ignore_errors=True)


def alive(pid: int) -> bool:
    """Whether a process with this pid runs (a zombie does not)."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z" and os.path.exists(f"/proc/{pid}")
