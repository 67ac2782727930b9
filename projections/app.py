"""The projector process: the log in, rows out, a heartbeat twice a second."""

import asyncio
import logging
import os
import signal
import sys
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Final

import uvloop
from pydantic_core import to_json

from agentos.domain import subjects
from agentos.domain.archive import ArchiveError
from agentos.domain.errors import DependencyUnavailableError
from agentos.domain.ports import Signals
from agentos.infra.archived_log import ArchivedLog
from agentos.infra.clock import SystemIds
from agentos.infra.jetstream.connection import bounded_close, connect
from agentos.infra.jetstream.signals import NatsSignals
from agentos.infra.retention import ArchiveDirectory, archive_directory
from agentos.projections.all import make_projectors
from agentos.projections.drift import DriftCheck
from agentos.projections.errors import ProjectionError
from agentos.projections.first_of import first_of
from agentos.projections.metrics import ProjectorMetrics
from agentos.projections.model_calls.projector import DAYS
from agentos.projections.runner import ProjectionRunner

if TYPE_CHECKING:
    from agentos.infra.settings import Settings

SERVICE: Final = "projector"
HEARTBEAT_S: Final = 0.5
METRICS_EVERY: Final = 4

logger = logging.getLogger(__name__)


def main(settings: "Settings") -> None:
    """Run the projector until SIGTERM or SIGINT; exits with 1 when it must not go on."""
    os.nice(5)  # whoever waits for an answer goes first; lists may lag
    runtime = settings.runtime()
    try:
        days = settings.model_calls_days
        archives = archive_directory(settings)
        work = serve(
            runtime.nats_url, runtime.postgres_dsn, model_calls_days=days, archives=archives
        )
        uvloop.run(work)
    except (ProjectionError, ArchiveError, DependencyUnavailableError) as exc:
        logger.critical("projector stopped: %s", exc)
        sys.exit(1)


async def serve(
    nats_url: str,
    postgres_dsn: str,
    *,
    model_calls_days: int = DAYS,
    archives: ArchiveDirectory | None = None,
) -> None:
    """Project until a signal asks to stop; what retention let go is read from its archives.

    Raises the `ProjectionError` that stopped it, or `DependencyUnavailableError` when NATS
    could not be reached at the start.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    connection = await connect(nats_url, SERVICE)
    try:
        log, signals = ArchivedLog(connection, archives), NatsSignals(connection)
        await log.open()
        if log.missing:
            count, first = len(log.missing), log.missing[0]
            logger.warning("new read models would lack what retention let go: %d, %s", count, first)
        projectors = partial(make_projectors, model_calls_days=model_calls_days)
        runner = ProjectionRunner(log, postgres_dsn, projectors=projectors)
        metrics = ProjectorMetrics()
        drift = DriftCheck(log, postgres_dsn, metrics.drifted)
        worker_id = SystemIds()("wrk")
        beat = _beat(runner, signals, worker_id, metrics)
        await first_of(runner.run(), drift.run(), beat, _until(stop))
    finally:
        await bounded_close(connection)


async def _beat(
    runner: ProjectionRunner, signals: Signals, worker_id: str, metrics: ProjectorMetrics
) -> None:
    subject = subjects.heartbeat(SERVICE, worker_id)
    figures = subjects.metrics(SERVICE, worker_id)
    for number in count():
        if number % METRICS_EVERY == 0:
            await signals.publish(figures, metrics.snapshot())
        beat = {
            "service": SERVICE,
            "worker_id": worker_id,
            "position": runner.position,
            "caught_up": runner.caught_up.is_set(),
            "pid": os.getpid(),
        }
        await signals.publish(subject, to_json(beat))
        await asyncio.sleep(HEARTBEAT_S)


async def _until(stop: asyncio.Event) -> None:
    await stop.wait()
