"""DBOS: durable workflows on PostgreSQL, with fsync on."""

import asyncio
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

import aiohttp

from agentos.infra import postgres_server
from agentos.infra.node.ports import pick_port
from tests.bench.peers.peer import APPS, Server, install, measure, plain_request, version
from tests.infra.embedded import EmbeddedPostgres

PACKAGES: Final = ("dbos", "fastapi", "uvicorn", "uvloop", "httptools", "psycopg[binary]")
IN_FLIGHT: Final = 200


class DurablePostgres(EmbeddedPostgres):
    """The embedded PostgreSQL with the settings that a database of record would have."""

    def start(self) -> None:
        """Start it with commits that wait for the disk, and more memory than a read model has."""
        settings = ("synchronous_commit=on", "shared_buffers=256MB", "max_connections=120")
        more = [part for setting in settings for part in ("-c", setting)]
        with (self.directory / "postgres.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*self.server.argv, *more],
                stdout=log,
                stderr=log,
                cwd=self.server.home,
                **self.server.run_as,
            )
        if not postgres_server.wait_until_ready(self.server, 10):
            raise AssertionError((self.directory / "postgres.log").read_text())


async def run_dbos(*, seconds: float, runs: int) -> dict[str, Any]:
    """Measure DBOS; raises `PeerError` when it cannot be installed or started."""
    programs = install("dbos", PACKAGES)
    database = DurablePostgres()
    database.start()
    try:
        with tempfile.TemporaryDirectory(prefix="aos-dbos-") as home:
            return await _measure(programs, database, Path(home), seconds, runs)
    finally:
        database.remove()


async def _measure(
    programs: Path, database: EmbeddedPostgres, home: Path, seconds: float, runs: int
) -> dict[str, Any]:
    port, notes = pick_port(), home / "steps"
    notes.touch()
    url = f"postgresql://agentos@/agentos?host={database.server.socket_dir}"
    argv = [str(programs / "python"), "-P", str(APPS / "dbos_app.py"), str(port), url, str(notes)]
    server = Server(argv, port, home)
    await server.start()
    try:
        ways = {
            way: await measure(
                port,
                plain_request(path, '{"text":"hello @"}'),
                201,
                seconds=seconds,
                runs=runs,
                alone=200,
            )
            for way, path in (("coroutines", "/runs"), ("threads", "/runs-threaded"))
        }
        resume = [await _resume(server, notes, trial) for trial in range(min(runs, 3))]
    finally:
        server.kill()
    lines: list[tuple[str, str, list[float]]] = []
    for way, (many, alone) in ways.items():
        lines.append((f"workflows of three steps ({way}), 32 clients", "/s", many))
        lines.append((f"one alone ({way}), p50", "ms", alone))
    killed = f"{IN_FLIGHT} in flight, killed, started at once: until all are finished"
    lines.append((killed, "s", [seconds for seconds, _, _ in resume]))
    lines.append(("step bodies that had ended and ran again", "", [n for _, n, _ in resume]))
    lines.append(("step bodies begun again", "", [n for _, _, n in resume]))
    return {"version": version(programs, "dbos"), "figures": lines}


async def _resume(server: Server, notes: Path, trial: int) -> tuple[float, int, int]:
    """Kill it with runs in flight and start it at once; seconds until all are finished."""
    await asyncio.gather(*(_start(server.port, f"t{trial}r{n}") for n in range(IN_FLIGHT)))
    await asyncio.sleep(0.5)
    killed = time.monotonic()
    server.kill()
    await server.start()
    async with asyncio.timeout(120):
        while _counted(notes, f"done t{trial}r") < IN_FLIGHT:  # noqa: ASYNC110 - a file
            await asyncio.sleep(0.05)
    taken = time.monotonic() - killed
    counts = Counter(line for line in _lines(notes) if f" t{trial}r" in line)
    ended = sum(n - 1 for line, n in counts.items() if line.startswith("end ") and n > 1)
    begun = sum(n - 1 for line, n in counts.items() if line.startswith("begin ") and n > 1)
    return taken, ended, begun


def _counted(notes: Path, beginning: str) -> int:
    return sum(line.startswith(beginning) for line in _lines(notes))


def _lines(notes: Path) -> list[str]:
    return notes.read_text().splitlines()


async def _start(port: int, name: str) -> None:
    async with aiohttp.ClientSession() as http:
        url = f"http://127.0.0.1:{port}/slow"
        async with http.post(url, json={"text": name}) as answer:
            answer.raise_for_status()
