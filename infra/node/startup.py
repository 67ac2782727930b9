"""The phases of a node's start: preflight, boot, seed, wire, validate."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from functools import partial
from typing import Any

from agentos.infra.federation.tls import own_context
from agentos.infra.nats_server import NatsServer
from agentos.infra.node import marker, servers
from agentos.infra.node.child import Child, Spec
from agentos.infra.node.durability import durability_words
from agentos.infra.node.errors import NodeError
from agentos.infra.node.files import write_whole
from agentos.infra.node.leftovers import end_processes, node_leftovers
from agentos.infra.node.paths import NodePaths
from agentos.infra.node.preflight import preflight
from agentos.infra.node.progress import Progress
from agentos.infra.node.readiness import readiness
from agentos.infra.node.workers import Preparation
from agentos.infra.settings import Settings

_READY_WITHIN = 45.0
_LOG_STREAM = "LOG_0"
_GIVES_UP_AFTER = 3
Keep = Callable[[Spec], Awaitable[Child]]


class Startup:
    """One start of a node. `keep` starts a process and keeps it from then on."""

    def __init__(
        self,
        settings: Settings,
        progress: Progress,
        keep: Keep,
        workers: Callable[[Settings], list[Spec]],
        preparation: Preparation | None,
    ) -> None:
        self.durability = durability_words(settings, None)
        self.nats: NatsServer | None = None
        self._settings, self._paths = settings, NodePaths(settings.data_dir)
        self._progress, self._keep, self._workers = progress, keep, workers
        self._preparation = preparation
        self._seeded: dict[str, Any] = {}
        self._own: list[Child] = []
        self._log_is_there = False

    async def run(self, version: str) -> dict[str, Any]:
        """Go through all phases; raise `NodeError` at the first check that fails."""
        await self._preflight()
        marker.update_marker(self._paths, agentos=version, durability=self._settings.durability)
        try:
            await self._boot()
            await self._prepare_and_wire()
        finally:
            if self._preparation:
                await self._preparation.end()
        await self._validate()
        return {"seeded": self._seeded, "durability": self.durability}

    async def _preflight(self) -> None:
        await self._progress.check("preflight", "leftovers", self._end_leftovers)
        for name, work in preflight(self._settings):
            await self._progress.check("preflight", name, partial(asyncio.to_thread, work))
        if not self._settings.jwt_secret and not self._paths.jwt_secret.exists():
            write_whole(self._paths.jwt_secret, secrets.token_urlsafe(48) + "\n")

    async def _end_leftovers(self) -> str:
        found = await asyncio.to_thread(node_leftovers, self._paths)
        await asyncio.to_thread(end_processes, found)
        return f"{len(found)} processes of an earlier node ended" if found else "none"

    async def _boot(self) -> None:
        if self._preparation:
            await self._preparation.load()
        self.nats = servers.lay_out_nats(self._settings, self._paths)
        await _together(
            self._progress.check("boot", "nats", self._boot_nats),
            self._progress.check("boot", "postgres", self._boot_postgres),
        )

    async def _boot_nats(self) -> str:
        if self.nats is None:
            return "the one that AGENTOS_NATS_URL names"
        child = await self._keep(servers.nats_spec(self.nats))
        verified = await servers.verify_durability(self._settings, self.nats)
        self.durability = durability_words(self._settings, verified)
        last = (await servers.streams_of(self.nats)).get(_LOG_STREAM)
        self._refuse_vanished_log(last)
        self._log_is_there = last is not None
        held = "no log yet" if last is None else f"{last:,} messages in the log"
        return f"pid {child.pid}, port {self.nats.port}, {held}; durability {self.durability}"

    def _refuse_vanished_log(self, last: int | None) -> None:
        if last is None and marker.read_marker(self._paths).get("log_created"):
            raise NodeError(
                "log",
                f"{self._paths.data} has state, but its log stream {_LOG_STREAM} is gone",
                f"restore {self._paths.nats} from a backup; to give up all data: "
                "agentos nuke --hard --yes-really",
                "nats",
            )

    async def _boot_postgres(self) -> str:
        server = await asyncio.to_thread(servers.lay_out_postgres, self._settings, self._paths)
        servers.write_runtime(self._paths, self.nats, server)
        if server is None:
            return "the one that AGENTOS_POSTGRES_DSN names"
        child = await self._keep(servers.postgres_spec(server))
        return f"pid {child.pid}, data in {server.home}"

    async def _prepare_and_wire(self) -> None:
        """Make the streams; seed while the node's own processes start.

        They need a log to start from. Where it is there already, they load at once.
        """
        if self._preparation is None:
            await self._wire()
            return
        reports = self._preparation.steps()
        if self._log_is_there:
            await _together(self._make_and_seed(reports), self._wire())
            return
        await self._progress.check("boot", "log", partial(self._provisioned, reports))
        seeding = self._progress.check("seed", "seed", partial(self._seeds, reports))
        await _together(seeding, self._wire())

    async def _make_and_seed(self, reports: AsyncIterator[dict[str, Any]]) -> None:
        await self._progress.check("boot", "log", partial(self._provisioned, reports))
        await self._progress.check("seed", "seed", partial(self._seeds, reports))

    async def _provisioned(self, reports: AsyncIterator[dict[str, Any]]) -> str:
        report = await anext(reports)
        marker.update_marker(self._paths, log_created=True)
        return str(report["detail"])

    async def _seeds(self, reports: AsyncIterator[dict[str, Any]]) -> str:
        version = 0
        async for report in reports:
            self._seeded = report.get("seeded", self._seeded)
            version = report.get("catalog", version)
        agents = len(self._seeded.get("sample_agent_ids", []))
        tools = len(self._seeded.get("sample_tool_ids", []))
        tenant = self._seeded.get("default_tenant_id")
        seeded = f"tenant {tenant}, {agents} agents, {tools} tools" if tenant else "nothing in prod"
        return f"{seeded}; models in version {version}" if version else seeded

    async def _wire(self) -> None:
        await _together(
            *(
                self._progress.check("wire", spec.name, partial(self._started, spec))
                for spec in self._workers(self._settings)
            )
        )

    async def _started(self, spec: Spec) -> str:
        child = await self._keep(spec)
        self._own.append(child)
        return f"pid {child.pid}"

    async def _validate(self) -> None:
        await _together(
            *(
                self._progress.check("validate", f"{name} ready", partial(self._ready, endpoint))
                for name, endpoint in self._settings.endpoints.items()
            )
        )

    async def _ready(self, endpoint: str) -> str:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _READY_WITHIN
        tls = own_context(self._settings)
        while problem := await readiness(endpoint, tls=tls):
            self._refuse_dying()
            if loop.time() > deadline:
                raise NodeError("readyz", problem, "agentos logs gateway", "gateway")
            await asyncio.sleep(0.05)
        return endpoint

    def _refuse_dying(self) -> None:
        dying = next((child for child in self._own if child.restarts >= _GIVES_UP_AFTER), None)
        if dying:
            name = dying.spec.name
            raise NodeError(name, f"{name} ends again and again", f"agentos logs {name}", name)


async def _together(*works: Coroutine[Any, Any, None]) -> None:
    """Do the works side by side; when one fails, end the others before its error goes on.

    So that nothing is started any more while what was started is being stopped.
    """
    tasks = [asyncio.create_task(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
