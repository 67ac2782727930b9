"""What peers share: an environment of their own, and a server process that is killed at will."""

import asyncio
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.bench.floors import listening
from tests.bench.load import KEY, Job, Outcome, generate, with_length
from tests.bench.node import ROOT
from tests.bench.stats import percentile

ENVIRONMENTS: Final = ROOT / ".bench"
APPS: Final = Path(__file__).parent


class PeerError(Exception):
    """A peer cannot be installed or does not start."""


def install(name: str, packages: Sequence[str]) -> Path:
    """Make the virtual environment `.bench/<name>` once and return its `bin` directory.

    Raises `PeerError` with pip's last words when a package cannot be had.
    """
    home = ENVIRONMENTS / name
    marker = home / ".installed"
    if not marker.exists():
        shutil.rmtree(home, ignore_errors=True)
        home.parent.mkdir(exist_ok=True)
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
        pip = [str(home / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
        done = subprocess.run([*pip, *packages], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise PeerError(f"{name} cannot be installed: {done.stderr.strip()[-400:]}")
        marker.touch()
    return home / "bin"


def version(programs: Path, package: str) -> str:
    """Return which version of a package an environment has."""
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    done = subprocess.run(
        [str(programs / "python"), "-c", code], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


class Server:
    """A peer's server process."""

    def __init__(
        self,
        argv: Sequence[str],
        port: int,
        home: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._argv, self._home, self.port = list(argv), home, port
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self, within: float = 60.0) -> None:
        """Start it and wait until it listens."""
        with (self._home / "peer.log").open("ab") as log:
            self._process = subprocess.Popen(  # noqa: ASYNC220 - starts at once
                self._argv, cwd=self._home, env=self._environment, stdout=log, stderr=log
            )
        try:
            await listening(self.port, within)
        except TimeoutError as exc:
            self.kill()
            words = (self._home / "peer.log").read_text()[-600:]
            raise PeerError(f"the peer does not start: {words}") from exc

    def kill(self) -> None:
        """End it as a crash does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None


def plain_request(path: str, text: str) -> str:
    """Return a POST of a JSON text in which the key of each request stands."""
    return (
        f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
        f"Content-Length: #LENGTH#\r\n\r\n{text.replace('@', KEY)}"
    )


async def rate(port: int, request: str, expected: int, *, seconds: float, clients: int) -> float:
    """Return whole runs a second."""
    filled = with_length(request, "k")
    job = Job(port=port, request=filled, clients=clients, seconds=seconds, expected=expected)
    return (await generate(job)).rate


async def measure(
    port: int, request: str, expected: int, *, seconds: float, runs: int, alone: int
) -> tuple[list[float], list[float]]:
    """Return whole runs a second at 32 clients, and the p50 in ms of one client alone."""
    many, single = [], []
    filled = with_length(request, "k")
    await generate(Job(port=port, request=filled, clients=4, count=40, expected=expected))
    for _ in range(runs):
        many.append(await rate(port, request, expected, seconds=seconds, clients=32))
        await asyncio.sleep(1.0)
        outcome: Outcome = await generate(
            Job(port=port, request=filled, clients=1, count=alone, expected=expected)
        )
        single.append(percentile(outcome.latencies, 0.5) * 1000)
    return many, single
