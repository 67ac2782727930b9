"""The embedded servers as processes of the node."""

import asyncio
import os
import signal

from agentos.infra import nats_server, postgres_server
from agentos.infra.federation.links import links_of
from agentos.infra.federation.node import load_peers
from agentos.infra.nats_server import NatsServer
from agentos.infra.node.child import Spec
from agentos.infra.node.errors import NodeError
from agentos.infra.node.files import write_object
from agentos.infra.node.paths import NodePaths
from agentos.infra.postgres_server import PostgresServer
from agentos.infra.settings import Settings
from agentos.infra.unprivileged import NoUnprivilegedUserError

_ASKED = 10


def lay_out_nats(settings: Settings, paths: NodePaths) -> NatsServer | None:
    """Write the configuration of the embedded NATS; None when another one is set."""
    if settings.nats_url:
        return None
    return nats_server.configure_nats(
        paths.nats,
        sync_always=settings.durability == "power",
        links=links_of(settings, *load_peers(settings)),
    )


def lay_out_postgres(settings: Settings, paths: NodePaths) -> PostgresServer | None:
    """Lay out the embedded PostgreSQL; None when another one is set. Raises `NodeError`."""
    if settings.postgres_dsn:
        return None
    try:
        return postgres_server.configure_postgres(paths.data)
    except (
        postgres_server.PostgresVersionError,
        postgres_server.PostgresSetupError,
        NoUnprivilegedUserError,
        OSError,
    ) as exc:
        raise NodeError("postgres", str(exc), "agentos doctor", "postgres") from exc


def nats_spec(server: NatsServer) -> Spec:
    """Return how the broker is kept. Recovery of a long log happens before it is ready."""
    return Spec(
        name="nats",
        argv=server.argv,
        directory=server.home,
        ready=server.is_ready,
    )


def postgres_spec(server: PostgresServer) -> Spec:
    """Return how the database is kept: SIGINT is its fast and clean shutdown."""
    return Spec(
        name="postgres",
        argv=server.argv,
        directory=server.home,
        # Handed on as it is (PATH, locale, time zone): no setting of ours is read from it here.
        environment={k: v for k, v in os.environ.items() if not k.startswith("PG")},
        run_as=server.run_as,
        stop_signal=signal.SIGINT,
        ready=server.is_ready,
        before_start=lambda: postgres_server.end_leftovers(server),
    )


def write_runtime(
    paths: NodePaths, nats: NatsServer | None, postgres: PostgresServer | None
) -> None:
    """Write down how the node's processes reach the embedded servers."""
    runtime = {}
    if nats:
        runtime["nats_url"] = nats.url
    if postgres:
        runtime["postgres_dsn"] = postgres.dsn
    write_object(paths.runtime, runtime)


async def verify_durability(settings: Settings, nats: NatsServer | None) -> bool:
    """Ask the embedded server what it really does. Raises `NodeError` when it is less."""
    if nats is None:
        return False
    syncs = await asyncio.to_thread(nats.syncs_always)
    if settings.durability == "power" and not syncs:
        raise NodeError(
            "durability",
            "the NATS server does not fsync before it acknowledges, although power is set",
            "agentos logs nats",
            "nats",
        )
    return syncs is not None


async def streams_of(nats: NatsServer) -> dict[str, int]:
    """Return the last sequence of every stream. Raises `NodeError` when there is no answer.

    No answer must never be taken for no log.
    """
    for _ in range(_ASKED):
        found = await asyncio.to_thread(nats.last_sequences)
        if found is not None:
            return found
        await asyncio.sleep(0.2)
    raise NodeError(
        "nats", "the NATS server does not say which streams it has", "agentos logs nats", "nats"
    )
