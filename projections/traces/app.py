"""The tracer process: the log in, spans out. It exists only where traces go somewhere."""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Mapping
from importlib.metadata import version
from itertools import count
from typing import TYPE_CHECKING, Final

import uvloop
from pydantic_core import to_json

from agentos.domain import subjects
from agentos.domain.errors import DependencyUnavailableError
from agentos.domain.ports import Signals
from agentos.infra.clock import SystemClock, SystemIds
from agentos.infra.jetstream.connection import bounded_close, connect
from agentos.infra.jetstream.log import JetStreamLog
from agentos.infra.jetstream.places import JetStreamPlaces
from agentos.infra.jetstream.signals import NatsSignals
from agentos.infra.otlp_settings import (
    EXTRA_STEP,
    ExtraMissingError,
    headers_of,
    require_extra,
    traces_url,
)
from agentos.projections.first_of import first_of
from agentos.projections.traces.delivery import Delivery
from agentos.projections.traces.metrics import TracerMetrics
from agentos.projections.traces.tracer import Tracer

if TYPE_CHECKING:
    from agentos.infra.settings import Settings

SERVICE: Final = "tracer"
HEARTBEAT_S: Final = 0.5
METRICS_EVERY: Final = 4
logger = logging.getLogger(__name__)


def main(settings: "Settings") -> None:
    """Run the tracer until SIGTERM or SIGINT; exits with 1 when it must not go on."""
    os.nice(10)  # traces are looked at afterwards: whoever works goes first
    if not settings.otlp_endpoint:
        logger.critical("tracer stopped: AGENTOS_OTLP_ENDPOINT is empty")
        sys.exit(1)
    try:
        require_extra()
        uvloop.run(serve(settings))
    except ExtraMissingError as exc:
        logger.critical("tracer stopped: %s; next: %s", exc, EXTRA_STEP)
        sys.exit(1)
    except DependencyUnavailableError as exc:
        logger.critical("tracer stopped: %s", exc)
        sys.exit(1)


async def serve(settings: "Settings") -> None:
    """Send spans until a signal asks to stop.

    Raises `DependencyUnavailableError` when NATS could not be reached at the start.
    """
    from agentos.infra.telemetry.otlp import OtlpSink  # noqa: PLC0415 - needs the extra

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    connection = await connect(settings.runtime().nats_url, SERVICE)
    sink = OtlpSink(
        traces_url(settings.otlp_endpoint),
        headers_of(settings.otlp_headers),
        resource_of(settings),
        version=version("agentos"),
    )
    try:
        metrics = TracerMetrics()
        tracer = Tracer(
            JetStreamLog(connection),
            JetStreamPlaces(connection),
            Delivery(sink, SystemClock(), metrics),
            metrics,
        )
        beat = _beat(tracer, NatsSignals(connection), SystemIds()("wrk"), metrics)
        await first_of(tracer.run(), beat, _until(stop))
    finally:
        await sink.aclose()
        await bounded_close(connection)


def resource_of(settings: "Settings") -> Mapping[str, str]:
    """Return what the spans' source is: this node, by OpenTelemetry's names."""
    return {
        "service.name": "agentos",
        "service.version": version("agentos"),
        "service.instance.id": settings.stack_id,
        "deployment.environment.name": settings.environment,
        "cloud.region": settings.region,
    }


async def _beat(tracer: Tracer, signals: Signals, worker_id: str, metrics: TracerMetrics) -> None:
    subject = subjects.heartbeat(SERVICE, worker_id)
    figures = subjects.metrics(SERVICE, worker_id)
    for number in count():
        if number % METRICS_EVERY == 0:
            try:
                await tracer.note_lag()
            except DependencyUnavailableError as error:
                logger.warning("how far behind traces are is not known: %s", error)
            await signals.publish(figures, metrics.snapshot())
        beat = {
            "service": SERVICE,
            "worker_id": worker_id,
            "position": tracer.position or 0,
            "caught_up": tracer.caught_up.is_set(),
            "pid": os.getpid(),
        }
        await signals.publish(subject, to_json(beat))
        await asyncio.sleep(HEARTBEAT_S)


async def _until(stop: asyncio.Event) -> None:
    await stop.wait()
