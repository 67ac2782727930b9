"""AgentOS's own processes, and the work that is done once at every start."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from typing import Any

from agentos.infra.node.child import Spec
from agentos.infra.node.errors import NodeError
from agentos.infra.node.paths import NodePaths
from agentos.infra.settings import Settings

_MODULE = "agentos.cli.process"


def environment_of(settings: Settings) -> dict[str, str]:
    """Return the environment of the node's own processes."""
    return {"MALLOC_ARENA_MAX": "2", **settings.child_environment(), "PYTHONUNBUFFERED": "1"}


def own_processes(settings: Settings) -> list[Spec]:
    """Return AgentOS's own processes: a gateway for all ports, handlers, executors, and others.

    One projector, one auditor, and one tracer if traces go anywhere: each reads the whole log,
    in its order.
    """
    paths = NodePaths(settings.data_dir)
    environment = environment_of(settings)
    return [
        Spec(
            name=name,
            argv=[sys.executable, "-P", "-m", _MODULE, kind, paths.mark, f"--name={name}"],
            directory=paths.data,
            environment=environment,
        )
        for kind, name in _names(settings)
    ]


def _names(settings: Settings) -> list[tuple[str, str]]:
    counts = {
        "handlers": settings.handler_processes,
        "executor": settings.executor_processes,
        "projector": 1,
        "auditor": 1,
        "tracer": 1 if settings.otlp_endpoint else 0,
        "gateway": 1,
    }
    return [
        (kind, kind if count == 1 else f"{kind}-{number}")
        for kind, count in counts.items()
        for number in range(1, count + 1)
    ]


class Preparation:
    """The process that makes the streams and the seeds: it loads while the servers start.

    It is a process of its own so that the supervisor stays small.
    """

    def __init__(self, settings: Settings, *steps: str) -> None:
        self._settings, self._steps = settings, steps
        self._paths = NodePaths(settings.data_dir)
        self._process: asyncio.subprocess.Process | None = None

    async def load(self) -> None:
        """Start the process; it waits for `steps()`."""
        with self._paths.log_of("prepare").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",
                "-m",
                _MODULE,
                "prepare",
                self._paths.mark,
                *self._steps,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                cwd=self._paths.data,
                env=environment_of(self._settings),
                start_new_session=True,
            )

    async def steps(self) -> AsyncIterator[dict[str, Any]]:
        """Let it begin, and yield what each step reports. Raises `NodeError` when one fails."""
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise NodeError("prepare", "the preparation was not loaded", "agentos up")
        process.stdin.write(b"go\n")
        process.stdin.close()
        while line := await asyncio.wait_for(process.stdout.readline(), 60):
            if not line.startswith(b"{"):
                continue
            report = json.loads(line)
            if "failed" in report:
                raise NodeError(report["failed"], report["message"], report["next"], "prepare")
            yield report
        if await process.wait() != 0:
            raise NodeError(
                "prepare", "streams and seeds could not be made", "agentos logs prepare", "prepare"
            )

    async def end(self) -> None:
        """Kill it if it still runs."""
        if self._process and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
