"""The executor process: its parts put together."""

import asyncio
import platform
import signal
from collections import OrderedDict

import structlog

from agentos.domain.agent.agent import Agent, Definition, agent_ref
from agentos.domain.errors import NotFoundError
from agentos.domain.ports import EventLog
from agentos.domain.subjects import StreamRef
from agentos.handlers.crash import never
from agentos.handlers.executor.calls import Outside
from agentos.handlers.executor.deltas import Deltas
from agentos.handlers.executor.execution import Bench
from agentos.handlers.executor.gate import ToolGate
from agentos.handlers.executor.worker import Worker
from agentos.infra.clock import SystemClock, SystemIds
from agentos.infra.crash import crash_at
from agentos.infra.jetstream.bus import NatsCommandBus
from agentos.infra.jetstream.connection import connect
from agentos.infra.jetstream.log import JetStreamLog
from agentos.infra.jetstream.queue import JetStreamQueue
from agentos.infra.jetstream.signals import NatsSignals
from agentos.infra.models.gateway_client import GatewayModels
from agentos.infra.names import installed_names
from agentos.infra.privacy.build import content_keys
from agentos.infra.privacy.sealed_log import SealedLog
from agentos.infra.settings import Settings
from agentos.infra.tools.build import build_tools
from agentos.infra.tools.jetstream_kv import JetStreamKeyValue

CACHED = 10_000
TENANTS_AT_ONCE = 4
log = structlog.get_logger()


class Definitions:
    """Agent versions, which never change, read from the log once."""

    def __init__(self, event_log: EventLog) -> None:
        self._log = event_log
        self._cache: OrderedDict[tuple[str, str, str], Definition] = OrderedDict()

    async def __call__(self, run: StreamRef, agent_id: str, version: str) -> Definition:
        """Return one version of an agent of the run's tenant."""
        key = (run.tenant_id, agent_id, version)
        if (found := self._cache.get(key)) is not None:
            return found
        ref = agent_ref(run.tenant_id, agent_id)
        agent = Agent(ref).fold(await self._log.read(ref))
        if version not in agent.versions:
            raise NotFoundError("the run's agent version is not in the log")
        self._cache[key] = agent.versions[version]
        if len(self._cache) > CACHED:
            self._cache.popitem(last=False)
        return agent.versions[version]


async def serve(settings: Settings) -> None:
    """Run an executor process until SIGTERM."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    client = await connect(settings.runtime().nats_url, "executor")
    event_log = SealedLog(JetStreamLog(client), content_keys(settings, client), needs_keys=True)
    clock, new_id = SystemClock(), SystemIds()
    signals = NatsSignals(client)
    models = GatewayModels(
        settings.model_gateway_url or settings.endpoints["model_policy"],
        settings.runtime().jwt_secret,
    )
    tools = build_tools(
        kv=await JetStreamKeyValue.open(client.jetstream()),
        http_allowlist=settings.http_fetch_allowlist,
        allow_private=settings.http_fetch_allow_private,
        probe_dir=settings.probe_dir,
    )
    gate = ToolGate(event_log, NatsCommandBus(client), clock, installed_names())
    bench = Bench(
        worker_id=new_id("wrk"),
        log=event_log,
        outside=Outside(
            models,
            tools,
            clock,
            new_id,
            settings.stack_id,
            gate,
            approval_wait_ms=settings.approval_timeout_s * 1000,
        ),
        definitions=Definitions(event_log),
        deltas=Deltas(signals),
        crash_point=crash_at(settings.crash_point) if settings.crash_point else never,
    )
    queue = JetStreamQueue(client)
    slots = TENANTS_AT_ONCE * settings.executor_slots
    place = ""
    if settings.process_name:
        place = f"{platform.node()}:{settings.data_dir.resolve()}/{settings.process_name}"
    worker = Worker(bench, queue, signals, slots, place)
    running = asyncio.create_task(worker.run())
    waiting = asyncio.create_task(stop.wait())
    log.info("executor ready", worker_id=bench.worker_id, slots=settings.executor_slots)
    try:
        await asyncio.wait([running, waiting], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (running, waiting):
            task.cancel()
        await asyncio.gather(running, waiting, return_exceptions=True)
        queue.close()
        await models.aclose()
        await client.close()
    if not running.cancelled() and (error := running.exception()) is not None:
        raise error


def main(settings: Settings) -> None:
    """Run the executor process; returns after SIGTERM."""
    import uvloop  # noqa: PLC0415 - not on every platform

    uvloop.run(serve(settings))
