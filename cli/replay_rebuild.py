"""A rebuild of the read models from the log and from what retention archived of it."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from pydantic_core import to_json

from agentos.domain.ports import Signals
from agentos.domain.subjects import heartbeat
from agentos.infra.archived_log import ArchivedLog, NotArchivedError
from agentos.infra.clock import SystemIds
from agentos.infra.jetstream.connection import bounded_close, connect
from agentos.infra.jetstream.signals import NatsSignals
from agentos.infra.retention import archive_directory
from agentos.infra.settings import Settings
from agentos.projections.rebuild import Progress, Rebuilt, rebuild

SERVICE: Final = "rebuild"
BEAT_S: Final = 0.5
CONNECT_TIMEOUT_S: Final = 10.0


async def rebuild_whole(
    settings: Settings, names: list[str], report: Callable[[Progress], None], *, lossy: bool
) -> Rebuilt:
    """Rebuild the named read models, with the rows of what retention let go.

    Raises `NotArchivedError` where an archive is missing, unless that is wanted (`lossy`), and
    when something went meanwhile; else as `rebuild`.
    """
    runtime = settings.runtime()
    connection = await connect(runtime.nats_url, "agentos-replay", timeout=CONNECT_TIMEOUT_S)
    beat = _Beat(NatsSignals(connection))
    beating = asyncio.create_task(beat.run())
    try:
        log = ArchivedLog(connection, archive_directory(settings))
        await log.open()
        if log.missing and not lossy:
            raise NotArchivedError(_why(log.missing))

        def told(progress: Progress) -> None:
            beat.position = progress.position
            report(progress)

        return await rebuild(
            log,
            runtime.postgres_dsn,
            names,
            told,
            model_calls_days=settings.model_calls_days,
            still_whole=log.require_unchanged,
        )
    finally:
        beating.cancel()
        with suppress(asyncio.CancelledError):
            await beating
        await bounded_close(connection)


def _why(missing: list[str]) -> str:
    some = "".join(f"\n  {what}" for what in missing[:10])
    more = f"\n  and {len(missing) - 10} more" if len(missing) > 10 else ""
    return (
        f"rows of what retention let go would be lost:{some}{more}\n"
        "put the files back, or give the rows up with --without-archives"
    )


class _Beat:
    """Says where the rebuild is, so that retention lets nothing go that it has not read."""

    def __init__(self, signals: Signals) -> None:
        self._signals = signals
        self.position = 0

    async def run(self) -> None:
        """Say it until cancelled."""
        worker_id = SystemIds()("wrk")
        subject = heartbeat(SERVICE, worker_id)
        while True:
            beat = {"service": SERVICE, "worker_id": worker_id, "position": self.position}
            await self._signals.publish(subject, to_json(beat))
            await asyncio.sleep(BEAT_S)
