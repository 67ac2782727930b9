"""A rebuild of the read models from the log and from what retention archived of it."""

from collections.abc import Callable
from typing import Final

from agentos.infra.archived_log import ArchivedLog, NotArchivedError
from agentos.infra.jetstream.connection import bounded_close, connect
from agentos.infra.jetstream.signals import NatsSignals
from agentos.infra.retention import archive_directory
from agentos.infra.settings import Settings
from agentos.infra.whole_read import whole_read
from agentos.projections.rebuild import Progress, Rebuilt, rebuild

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
    try:
        async with whole_read(NatsSignals(connection)):
            log = ArchivedLog(connection, archive_directory(settings))
            await log.open()
            if log.missing and not lossy:
                raise NotArchivedError(_why(log.missing))
            return await rebuild(
                log,
                runtime.postgres_dsn,
                names,
                report,
                model_calls_days=settings.model_calls_days,
                still_whole=log.require_unchanged,
            )
    finally:
        await bounded_close(connection)


def _why(missing: list[str]) -> str:
    some = "".join(f"\n  {what}" for what in missing[:10])
    more = f"\n  and {len(missing) - 10} more" if len(missing) > 10 else ""
    return (
        f"rows of what retention let go would be lost:{some}{more}\n"
        "put the files back, or give the rows up with --without-archives"
    )
