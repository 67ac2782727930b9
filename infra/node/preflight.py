"""What is checked before anything is started."""

import os
import shutil
from collections.abc import Callable, Iterator

from agentos.infra.federation.links import links_of
from agentos.infra.federation.node import load_peers
from agentos.infra.federation.peers_file import PeersFileError
from agentos.infra.federation.tls import door_context
from agentos.infra.nats_server import NatsBinaryMissingError, find_nats_binary
from agentos.infra.node.errors import NodeError
from agentos.infra.node.marker import check_layout
from agentos.infra.node.paths import NodePaths
from agentos.infra.node.ports import holder_of, is_free, pid_on
from agentos.infra.otlp_settings import EXTRA_STEP, ExtraMissingError, require_extra, traces_url
from agentos.infra.postgres_server import PostgresBinaryMissingError, find_postgres_programs
from agentos.infra.settings import Settings, mask

Check = tuple[str, Callable[[], str]]


def preflight(settings: Settings) -> Iterator[Check]:
    """Return the checks in order: each returns what it found, or raises `NodeError`."""
    yield "data directory", lambda: data_directory(settings)
    yield "disk", lambda: disk(settings)
    yield "binaries", lambda: binaries(settings)
    yield "peers", lambda: peers(settings)
    yield "models", lambda: models(settings)
    yield "traces", lambda: traces(settings)
    yield "ports", lambda: ports(settings)


def data_directory(settings: Settings) -> str:
    """Check that the data directory is ours to write and of a layout we know."""
    paths = NodePaths(settings.data_dir)
    try:
        paths.create()
    except OSError as exc:
        raise NodeError(
            "data directory",
            f"{settings.data_dir} cannot be used: {exc}",
            "choose another directory: agentos up --data-dir PATH",
        ) from exc
    check_layout(paths)
    if not os.access(settings.data_dir, os.W_OK | os.X_OK):
        raise NodeError(
            "data directory",
            f"{settings.data_dir} is not writable",
            "choose another directory: agentos up --data-dir PATH",
        )
    return str(settings.data_dir)


def disk(settings: Settings) -> str:
    """Check that there is room to start."""
    place = next(p for p in (settings.data_dir, *settings.data_dir.parents) if p.exists())
    free = shutil.disk_usage(place).free // 2**20
    if free < settings.min_free_mb:
        raise NodeError(
            "disk",
            f"{free} MB are free in {settings.data_dir}, {settings.min_free_mb} MB are needed",
            "make room, or set AGENTOS_MIN_FREE_MB lower",
        )
    return f"{free:,} MB free"


def binaries(settings: Settings) -> str:
    """Check that the servers that are to be started are installed."""
    try:
        found = [] if settings.nats_url else [find_nats_binary().name]
        if not settings.postgres_dsn:
            find_postgres_programs()
            found.append("postgres")
    except (NatsBinaryMissingError, PostgresBinaryMissingError) as exc:
        raise NodeError("binaries", str(exc), "then run: agentos up") from exc
    return ", ".join(found) or "none needed"


def peers(settings: Settings) -> str:
    """Check that the peers file can be used; whether the peers can be reached is no question."""
    try:
        local, entries = load_peers(settings)
        links_of(settings, local, entries)
        door_context(settings)
    except PeersFileError as exc:
        raise NodeError("peers", str(exc), "correct the file, then: agentos up") from exc
    except OSError as exc:
        raise NodeError(
            "peers",
            f"AGENTOS_FED_CERT, AGENTOS_FED_KEY or AGENTOS_FED_CA_CERT cannot be used: {exc}",
            "make certificates with: agentos peers certs",
        ) from exc
    if settings.peers_file is None:
        return "none"
    open_ones = [entry.stack_id for entry in entries if not entry.is_keyed]
    unsecured = f", unsecured: {', '.join(open_ones)}" if open_ones else ""
    return f"{local.stack_id}, {len(entries)} peers{unsecured}"


def models(settings: Settings) -> str:
    """Check that the models file can be used."""
    if settings.models_file is None:
        return "out of the box"
    # Loaded here only: the supervisor is small without it.
    from agentos.infra.models.catalog_file import ModelsFileError, node_catalog  # noqa: PLC0415

    try:
        catalog, _ = node_catalog(settings)
    except ModelsFileError as exc:
        raise NodeError("models", str(exc), "correct the file, then: agentos config check") from exc
    return f"{len(catalog.backends)} backends, {len(catalog.models)} models"


def traces(settings: Settings) -> str:
    """Check that traces can be made if they go anywhere; the collector may come later."""
    if not settings.otlp_endpoint:
        return "none"
    try:
        require_extra()
    except ExtraMissingError as exc:
        raise NodeError("traces", str(exc), EXTRA_STEP) from exc
    return traces_url(mask(settings.otlp_endpoint, "password"))


def ports(settings: Settings, own: frozenset[int] = frozenset()) -> str:
    """Check that nobody else listens where the gateways will.

    `own` are the pids that an earlier start of this node left behind: a start ends them.
    """
    found = []
    for name, port in settings.ports.items():
        free = is_free(port, settings.host)
        if not free and pid_on(port) in own:
            found.append(f"{port} (held by what this node left behind)")
        elif not free:
            holder = holder_of(port)
            by = f" by {holder}" if holder else ""
            raise NodeError(
                "ports",
                f"port {port} ({name}) is taken{by}",
                f"end that program, or choose another port: AGENTOS_{name.upper()}_PORT",
            )
        else:
            found.append(str(port))
    return ", ".join(found)
