"""The supervisor: starts a node, keeps its processes, answers on its socket, stops it."""

import asyncio
import contextlib
import fcntl
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any, TextIO

from agentos.infra.node.child import Child, Spec, now
from agentos.infra.node.control import Message
from agentos.infra.node.control_server import ControlServer
from agentos.infra.node.disk_watch import DiskWatch
from agentos.infra.node.durability import durability_words
from agentos.infra.node.errors import NodeError
from agentos.infra.node.files import write_object
from agentos.infra.node.logfiles import sizes_of, troubles_of
from agentos.infra.node.next_step import as_pasted
from agentos.infra.node.paths import NodePaths
from agentos.infra.node.ports import PortTakenError
from agentos.infra.node.progress import Progress
from agentos.infra.node.startup import Startup
from agentos.infra.node.workers import Preparation, own_processes
from agentos.infra.settings import Settings

_LEVELS = ("debug", "info", "warning", "error")
_SERVERS = ("nats", "postgres")
_DISK_EVERY = 1.0


class Supervisor:
    """Keeps one node. `workers` says which own processes there are (tests bring their own)."""

    def __init__(
        self,
        settings: Settings,
        version: str,
        workers: Callable[[Settings], list[Spec]] = own_processes,
        *,
        prepare: bool = True,
        output: TextIO = sys.stdout,
    ) -> None:
        self._settings, self._version, self._output = settings, version, output
        self._paths = NodePaths(settings.data_dir)
        self._progress = Progress()
        self._children: dict[str, Child] = {}
        self._state = "starting"
        self._started_at = now()
        self._stop = asyncio.Event()
        self._stopped = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None
        preparation = Preparation(settings, *_steps(settings)) if prepare else None
        self._startup = Startup(settings, self._progress, self._keep, workers, preparation)

    async def run(self) -> int:
        """Start the node and keep it until `stop`, SIGTERM or SIGINT; return the exit code.

        Returns 0 at once when another supervisor holds the node.
        """
        os.umask(0o077)
        self._paths.create()
        with self._paths.lock.open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return 0
            return await self._hold()

    async def _hold(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        durability = durability_words(self._settings, None)
        self._note("info", f"starting; durability: {durability}", version=self._version)
        control = ControlServer(self._paths.control, self._answer)
        await control.open()
        try:
            if await self._until_stopped(asyncio.create_task(self._start(), name="start")):
                self._change("stopping")
                await self._stop_children()
                self._change("stopped")
                self._note("info", "the node is stopped")
                return 0
            return 1
        finally:
            self._stopped.set()
            await control.close()

    async def _until_stopped(self, starting: "asyncio.Task[bool]") -> bool:
        stopping = asyncio.create_task(self._stop.wait(), name="stop")
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done() and not starting.result():
            stopping.cancel()
            return False
        await stopping
        starting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await starting
        return True

    async def _start(self) -> bool:
        before = sizes_of(self._paths)
        try:
            facts = await self._run_startup()
        except NodeError as exc:
            step = as_pasted(exc.next_step, self._paths.data)
            self._note("error", str(exc), check=exc.check, next=step)
            since = before.get(exc.service, 0)
            log = troubles_of(self._paths, exc.service, since) if exc.service else []
            self._change("stopping")
            await self._stop_children()
            self._progress.failed(exc, log)
            self._change("failed")
            return False
        self._change("ready")
        if "nats" in self._children:
            self._watching = asyncio.create_task(self._watch_disk(), name="watch the disk")
        self._note("info", "the node is ready", durability=facts["durability"])
        self._progress.done(mode=self._settings.profile, **facts)
        return True

    async def _run_startup(self) -> dict[str, Any]:
        try:
            return await self._startup.run(self._version)
        except (OSError, PortTakenError) as exc:  # a full disk, a directory that went away
            raise NodeError("start", f"{type(exc).__name__}: {exc}", "agentos doctor") from exc

    async def _keep(self, spec: Spec) -> Child:
        child = Child(spec, self._paths.log_of(spec.name), self._note, self._write_state)
        self._children[spec.name] = child
        await child.start()
        return child

    async def _watch_disk(self) -> None:
        watch = DiskWatch(self._paths.log_of("nats"), self._paths.nats)
        while True:
            await asyncio.sleep(_DISK_EVERY)
            with contextlib.suppress(OSError):
                if watch.must_restart():
                    self._note("warning", "there is room on the disk again; nats starts anew")
                    await self._children["nats"].restart()
                    watch.restarted()
                    self._change("ready")
                elif watch.full and self._state == "ready":
                    self._change("degraded")
                    self._note("error", "the disk is full: nothing is accepted; make room")

    async def _stop_children(self) -> None:
        if self._watching:
            self._watching.cancel()
        own = [c for name, c in self._children.items() if name not in _SERVERS]
        servers = [c for name, c in self._children.items() if name in _SERVERS]
        for group in (own, servers):
            await asyncio.gather(*(child.stop() for child in group))

    async def _answer(self, request: Message) -> AsyncIterator[Message]:
        match request.get("op"):
            case "watch":
                async for event in self._progress.watch():
                    yield event
            case "status":
                yield self._describe()
            case "restart":
                yield await self._restart(str(request.get("service")))
            case "stop":
                self._stop.set()
                await self._stopped.wait()
                yield {"state": self._state}
            case _:
                yield {"error": f"unknown request {request.get('op')!r}"}

    async def _restart(self, service: str) -> Message:
        names = [n for n in self._children if service in (n, n.rpartition("-")[0])]
        if not names:
            return {"error": f"no service {service}; there are: {', '.join(self._children)}"}
        await asyncio.gather(*(self._children[name].restart() for name in names))
        return {"restarted": [self._children[name].describe() for name in names]}

    def _describe(self) -> dict[str, Any]:
        return {
            "state": self._state,
            "mode": self._settings.profile,
            "durability": self._startup.durability,
            "endpoints": self._settings.endpoints,
            "processes": [child.describe() for child in self._children.values()],
            "supervisor": {"pid": os.getpid(), "started_at": self._started_at},
        }

    def _change(self, state: str) -> None:
        self._state = state
        self._write_state()

    def _write_state(self) -> None:
        try:
            failure = {"events": self._progress.events} if self._state == "failed" else {}
            write_object(self._paths.state, {**self._describe(), **failure})
        except OSError as exc:  # a full disk must not end the one who could restart things
            self._note("error", f"the state cannot be written: {exc}")

    def _note(self, level: str, message: str, **facts: object) -> None:
        if _LEVELS.index(level) >= _LEVELS.index(self._settings.log_level):
            line = {"time": now(), "level": level, "service": "supervisor", "message": message}
            with contextlib.suppress(OSError):
                print(json.dumps({**line, **facts}), file=self._output, flush=True)


def _steps(settings: Settings) -> list[str]:
    return ["provision"] if settings.profile == "prod" else ["provision", "seed"]
