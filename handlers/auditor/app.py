"""The auditor process: its parts put together."""

import asyncio
import os
import signal
from itertools import count
from typing import Final

import orjson
import structlog

from agentos.domain.audit.chain import NODE_TENANT, Entry
from agentos.domain.auth import SYSTEM_PRINCIPAL
from agentos.domain.ports import Signals
from agentos.domain.subjects import heartbeat, metrics
from agentos.handlers.auditor.auditor import Auditor
from agentos.handlers.auditor.chains import record_once
from agentos.handlers.auditor.parts import AuditorParts
from agentos.handlers.crash import never
from agentos.infra.clock import SystemClock, SystemIds
from agentos.infra.crash import crash_at
from agentos.infra.jetstream.connection import connect
from agentos.infra.jetstream.log import JetStreamLog
from agentos.infra.jetstream.signals import NatsSignals
from agentos.infra.node.paths import NodePaths
from agentos.infra.settings import Settings
from agentos.infra.signing import signer_of

SERVICE: Final = "auditor"
BEAT_S: Final = 0.5
METRICS_EVERY: Final = 4
STOP_S: Final = 5.0
log = structlog.get_logger()


async def serve(settings: Settings) -> None:
    """Audit until SIGTERM; what is unsigned then is signed before it ends."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    client = await connect(settings.runtime().nats_url, SERVICE)
    new_id = SystemIds()
    parts = AuditorParts(
        log=JetStreamLog(client),
        clock=SystemClock(),
        new_id=new_id,
        signer=signer_of(settings.audit_key, NodePaths(settings.data_dir).audit_key),
        crash_point=crash_at(settings.crash_point) if settings.crash_point else never,
    )
    auditor, worker = Auditor(parts), new_id("wrk")
    waiting = asyncio.create_task(stop.wait())
    tasks = [asyncio.create_task(_work(auditor, parts, worker))]
    tasks += [asyncio.create_task(_beat(auditor, parts, NatsSignals(client), worker))]
    try:
        await asyncio.wait([waiting, *tasks], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in [waiting, *tasks]:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        await _sign_all(auditor)
        await client.close()
    for result in results:
        if isinstance(result, Exception):
            raise result


async def _work(auditor: Auditor, parts: AuditorParts, worker: str) -> None:
    await auditor.notary.publish_key()
    await auditor.resume()
    await record_once(parts, NODE_TENANT, _key_used(parts, worker))
    async with asyncio.TaskGroup() as both:  # whatever ends one, the other is over with it
        both.create_task(auditor.run())
        both.create_task(auditor.notary.run())


def _key_used(parts: AuditorParts, worker: str) -> Entry:
    """Return the entry of what this process has just done: read the node's signing key."""
    return Entry(
        principal=SYSTEM_PRINCIPAL,
        action="secrets.access",
        resource="audit_key",
        outcome="allowed",
        cause=worker,
        meta={"key_id": parts.signer.key_id, "purpose": "sign checkpoints"},
    )


async def _sign_all(auditor: Auditor) -> None:
    try:
        async with asyncio.timeout(STOP_S):
            await auditor.notary.sign_due(asyncio.get_running_loop().time())
    except TimeoutError:
        log.warning("not all chains were signed at the end; the next start signs them")


async def _beat(auditor: Auditor, parts: AuditorParts, signals: Signals, worker: str) -> None:
    for number in count():
        beat = {
            "service": SERVICE,
            "worker_id": worker,
            "pid": os.getpid(),
            "position": auditor.position,
            "caught_up": auditor.caught_up.is_set(),
        }
        await signals.publish(heartbeat(SERVICE, worker), orjson.dumps(beat))
        if number % METRICS_EVERY == 0:
            await signals.publish(metrics(SERVICE, worker), parts.metrics.snapshot())
        await asyncio.sleep(BEAT_S)


def main(settings: Settings) -> None:
    """Run the auditor process; returns after SIGTERM."""
    import uvloop  # noqa: PLC0415 - not on every platform

    os.nice(5)  # whoever waits for an answer goes first
    uvloop.run(serve(settings))
