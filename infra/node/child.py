"""One process that the supervisor keeps: started, watched, started again, stopped."""

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agentos.infra.node.errors import NodeError
from agentos.infra.node.logfiles import rotate
from agentos.infra.unprivileged import RunAs

_FIRST_DELAY, _LONGEST_DELAY = 0.1, 10.0
_HEALTHY_AFTER = 10.0
Note = Callable[..., None]
Changed = Callable[[], None]


@dataclass(frozen=True)
class Spec:
    """How one process is started, known to be ready, and stopped.

    `before_start` runs in a thread before every start.
    """

    name: str
    argv: list[str]
    directory: Path
    environment: Mapping[str, str] = field(repr=False, default_factory=dict)
    run_as: RunAs = field(default_factory=RunAs)
    stop_signal: signal.Signals = signal.SIGTERM
    stop_grace: float = 10.0
    ready: Callable[[], bool] = lambda: True
    ready_within: float = 30.0
    before_start: Callable[[], object] = lambda: None


class Child:
    """A process kept alive by a task: restarted with a growing delay when it dies."""

    def __init__(self, spec: Spec, log: Path, note: Note, changed: Changed) -> None:
        self.spec = spec
        self.state = "stopped"
        self.restarts = 0
        self.started_at: str | None = None
        self._log, self._note, self._changed = log, note, changed
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._stopping = False
        self._asked = asyncio.Event()
        self._again = asyncio.Event()

    @property
    def pid(self) -> int | None:
        """Return the pid of the living process."""
        return self._process.pid if self._process and self._process.returncode is None else None

    def describe(self) -> dict[str, Any]:
        """Return the process as `status` shows it."""
        return {
            "name": self.spec.name,
            "pid": self.pid,
            "state": self.state,
            "restarts": self.restarts,
            "started_at": self.started_at,
        }

    async def start(self) -> None:
        """Start it, wait until it is ready, keep it from then on.

        Raises `NodeError` when it ends or takes too long before it is ready for the first time.
        """
        try:
            await self._spawn()
        except OSError as exc:
            raise NodeError(self.spec.name, f"{self.spec.name}: {exc}", "agentos doctor") from exc
        self._keeper = asyncio.create_task(self._keep(), name=f"keep {self.spec.name}")
        if not await self._becomes_ready():
            raise NodeError(
                self.spec.name,
                f"{self.spec.name} did not become ready",
                f"agentos logs {self.spec.name}",
                self.spec.name,
            )

    async def restart(self) -> None:
        """Stop the process and start it again at once, also one that waits for its next try."""
        self._again.clear()
        self._asked.set()
        await self._end()
        await self._again.wait()

    async def stop(self) -> None:
        """Stop it for good: ask first, kill when its grace is over."""
        self._stopping = True
        if self._keeper:
            self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeper
        await self._end()
        self._again.set()
        self._change("stopped")

    async def _end(self) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(self.spec.stop_signal)
        try:
            await asyncio.wait_for(process.wait(), self.spec.stop_grace)
        except TimeoutError:
            self._note("warning", f"{self.spec.name} did not stop in time and is killed")
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _spawn(self) -> None:
        await asyncio.to_thread(self.spec.before_start)
        rotate(self._log)
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self.spec.argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.spec.directory,
                env=dict(self.spec.environment) or None,
                start_new_session=True,
                **self.spec.run_as,
            )
        self.started_at = now()
        self._change("starting")

    async def _becomes_ready(self) -> bool:
        process, deadline = self._process, time.monotonic() + self.spec.ready_within
        while process and process.returncode is None and time.monotonic() < deadline:
            if await asyncio.to_thread(self.spec.ready):
                self._change("running")
                return True
            await asyncio.sleep(0.02)
        return False

    async def _keep(self) -> None:
        delay = _FIRST_DELAY
        while not self._stopping and self._process:
            started = time.monotonic()
            code = await self._process.wait()
            if self._stopping:
                return
            if time.monotonic() - started > _HEALTHY_AFTER or self._asked.is_set():
                delay = _FIRST_DELAY
            self._say_ended(code, 0.0 if self._asked.is_set() else delay)
            if await self._asked_within(delay):
                delay = _FIRST_DELAY
            delay = min(delay * 2, _LONGEST_DELAY)
            await self._start_again()
            if not self._asked.is_set():
                self._again.set()

    async def _asked_within(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            return await asyncio.wait_for(self._asked.wait(), seconds)
        return False

    async def _start_again(self) -> None:
        self.restarts += 1
        try:
            await self._spawn()
        except (OSError, NodeError) as exc:
            self._note("error", f"{self.spec.name} cannot be started: {exc}")
            self._asked.clear()
            return
        # Who asked before this moment has the new process; who asks from now on ends it.
        self._asked.clear()
        if await self._becomes_ready():
            self._note("info", f"{self.spec.name} is back", pid=self.pid, restarts=self.restarts)

    def _say_ended(self, code: int, delay: float) -> None:
        how = f"killed by signal {-code}" if code < 0 else f"ended with code {code}"
        self._note("warning", f"{self.spec.name} {how}; starts again in {delay:.1f} s")
        self._change("restarting")

    def _change(self, state: str) -> None:
        self.state = state
        self._changed()


def now() -> str:
    """Return the time as the contracts write it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:23] + "Z"
