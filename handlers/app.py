"""The handler process: its parts put together, its subscriptions, its background tasks."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from itertools import count
from typing import Any

import orjson
import structlog

from agentos.domain.run.idempotency import EPOCH_MS
from agentos.domain.subjects import StreamRef, heartbeat, metrics
from agentos.handlers.admission import AdmissionDesks
from agentos.handlers.audit import record_denials_for_ever
from agentos.handlers.crash import never
from agentos.handlers.directory import Directory
from agentos.handlers.dispatch import Dispatcher
from agentos.handlers.erasure import resume_erasures
from agentos.handlers.ledgers import LedgerDesks
from agentos.handlers.parts import Parts
from agentos.handlers.retention.keeper import PATIENCE_S, RetentionKeeper, RetentionParts
from agentos.handlers.retention.readers import Readers
from agentos.handlers.serving import CommandServer
from agentos.handlers.subscribers import AccountsKeeper
from agentos.handlers.sweep import load_unfinished, sweep_for_ever
from agentos.handlers.usage_desks import UsageDesks
from agentos.handlers.watch import LogWatch
from agentos.infra.clock import SystemClock, SystemIds
from agentos.infra.crash import crash_at
from agentos.infra.jetstream.accounts import ReloadedAccounts
from agentos.infra.jetstream.connection import connect
from agentos.infra.jetstream.log import JetStreamLog
from agentos.infra.jetstream.queue import JetStreamQueue
from agentos.infra.jetstream.signals import NatsSignals
from agentos.infra.names import installed_names
from agentos.infra.nats_server import load_nats
from agentos.infra.node.paths import NodePaths
from agentos.infra.privacy.build import content_keys
from agentos.infra.privacy.sealed_log import SealedLog
from agentos.infra.retention import archive_directory, retention_rules
from agentos.infra.settings import Settings

BEAT_S = 0.5
METRICS_EVERY = 4
log = structlog.get_logger()


def make_parts(settings: Settings, client: Any) -> Parts:
    """Return the parts of a handler process on a connected NATS client."""
    ttl_ms = settings.idempotency_ttl_hours * 3_600_000
    if ttl_ms > EPOCH_MS:
        raise ValueError("AGENTOS_IDEMPOTENCY_TTL_HOURS may be 720 at most")
    keys = content_keys(settings, client)
    event_log, queue = SealedLog(JetStreamLog(client), keys), JetStreamQueue(client)
    clock, new_id, watch = SystemClock(), SystemIds(), LogWatch(event_log)
    desks = AdmissionDesks(event_log, watch, clock, new_id, ttl_ms)
    dispatcher = Dispatcher(queue, watch, clock, settings.executor_slots)
    watch.on_final = partial(_on_final, desks, dispatcher)
    watch.on_waiting = dispatcher.on_waiting
    server = None if settings.nats_url else load_nats(NodePaths(settings.data_dir).nats)
    return Parts(
        log=event_log,
        clock=clock,
        new_id=new_id,
        queue=queue,
        signals=NatsSignals(client),
        watch=watch,
        directory=Directory(event_log, watch),
        desks=desks,
        dispatcher=dispatcher,
        ledgers=LedgerDesks(event_log, clock, new_id),
        usage=UsageDesks(event_log, clock, new_id),
        idempotency_ttl_ms=ttl_ms,
        crash_point=crash_at(settings.crash_point) if settings.crash_point else never,
        subscribers=None
        if server is None
        else AccountsKeeper(event_log, clock, ReloadedAccounts(server)),
        keys=keys,
        contents=event_log,
        retention=retention_rules(settings),
        names=installed_names(),
    )


def make_retention(settings: Settings, parts: Parts) -> RetentionKeeper:
    """Return what lets old events go, in a handler process or for a command."""
    return RetentionKeeper(
        RetentionParts(
            log=parts.log if parts.contents is None else parts.contents.stored,
            clock=parts.clock,
            new_id=parts.new_id,
            directory=parts.directory,
            readers=Readers(parts.log),
            rules=parts.retention,
            archives=archive_directory(settings),
            idempotency_ttl_ms=parts.idempotency_ttl_ms,
            every_s=settings.retention_every_s,
            patience_s=min(PATIENCE_S, settings.retention_every_s),
            crash_point=parts.crash_point,
            metrics=parts.metrics.retention,
        )
    )


def _on_final(desks: AdmissionDesks, dispatcher: Dispatcher, ref: StreamRef) -> None:
    desks.on_final(ref.tenant_id, ref.aggregate_id)
    dispatcher.on_final(ref)


async def serve(settings: Settings) -> None:
    """Run a handler process until SIGTERM."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    client = await connect(settings.runtime().nats_url, "handlers")
    parts = make_parts(settings, client)
    await parts.dispatcher.listen(parts.signals)
    start = await parts.log.head()
    unfinished = await load_unfinished(parts)
    tasks = [
        asyncio.create_task(parts.watch.run(start)),
        asyncio.create_task(parts.dispatcher.run()),
    ]
    await parts.watch.reach(start)
    await resume_erasures(parts)
    server = CommandServer(settings.runtime().nats_url, parts)
    await server.start()
    tasks += [
        asyncio.create_task(sweep_for_ever(parts)),
        asyncio.create_task(_beat(parts)),
        asyncio.create_task(record_denials_for_ever(parts)),
        asyncio.create_task(make_retention(settings, parts).keep(parts.signals)),
    ]
    if parts.subscribers is not None:
        tasks.append(asyncio.create_task(parts.subscribers.keep()))
    log.info("handlers ready", unfinished_runs=unfinished, position=start)
    waiting = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([waiting, *tasks], return_when=asyncio.FIRST_COMPLETED)
        await server.stop()
    finally:
        for task in [waiting, *tasks]:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        await client.close()
    for result in results:
        if isinstance(result, Exception):
            raise result


async def _beat(parts: Parts) -> None:
    worker = parts.new_id("wrk")
    for number in count():
        beat = {
            "service": "handlers",
            "worker_id": worker,
            "pid": os.getpid(),
            "unfinished_runs": len(parts.watch.runs),
        }
        await parts.signals.publish(heartbeat("handlers", worker), orjson.dumps(beat))
        if number % METRICS_EVERY == 0:
            parts.metrics.runs_active.set(len(parts.watch.runs))
            parts.metrics.rank_tenants(map(len, parts.watch.run_ids.values()))
            for priority, waiting in parts.dispatcher.waiting().items():
                parts.metrics.queue_depth.labels(priority).set(waiting)
            await parts.signals.publish(metrics("handlers", worker), parts.metrics.snapshot())
        await asyncio.sleep(BEAT_S)


def main(settings: Settings) -> None:
    """Run the handler process; returns after SIGTERM."""
    import uvloop  # noqa: PLC0415 - not on every platform

    uvloop.run(serve(settings))


@asynccontextmanager
async def retention_of(settings: Settings) -> AsyncIterator[RetentionKeeper]:
    """Give what lets old events go, for a command beside the node."""
    client = await connect(settings.runtime().nats_url, "retention")
    try:
        parts = make_parts(settings, client)
        keeper = make_retention(settings, parts)
        await keeper.listen(parts.signals)
        yield keeper
    finally:
        await client.close()


async def seed(settings: Settings) -> dict[str, Any]:
    """Write what a demo or dev node begins with, once; returns the ids for its report."""
    from agentos.handlers import seed as seeds  # noqa: PLC0415 - only `up` needs it

    client = await connect(settings.runtime().nats_url, "seed")
    try:
        return await seeds.seed(JetStreamLog(client), SystemClock(), SystemIds())
    finally:
        await client.close()


async def publish_models(settings: Settings) -> int:
    """Publish what the settings and their models file say of models; the catalog's version."""
    from agentos.handlers.catalog import publish_at_start  # noqa: PLC0415 - only `up` needs it
    from agentos.infra.models.catalog_file import node_catalog  # noqa: PLC0415 - as above

    document, source = node_catalog(settings)
    client = await connect(settings.runtime().nats_url, "catalog")
    try:
        return await publish_at_start(make_parts(settings, client), document, source)
    finally:
        await client.close()


async def first_admin(
    settings: Settings, tenant_id: str, admin_id: str, *, again: bool, begin: Callable[[], None]
) -> dict[str, Any]:
    """Make the first tenant of a `prod` node and its two keys; as `make_first_admin`."""
    from agentos.handlers.first_admin import make_first_admin  # noqa: PLC0415 - only `init` does

    client = await connect(settings.runtime().nats_url, "init")
    try:
        parts = make_parts(settings, client)
        return await make_first_admin(parts, tenant_id, admin_id, again=again, begin=begin)
    finally:
        await client.close()
