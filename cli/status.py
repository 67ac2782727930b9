"""`agentos status`."""

import asyncio
import json
import ssl
import urllib.error
import urllib.request
from typing import Any

import typer

from agentos.cli.node_client import describe
from agentos.cli.options import AsJson, DataDir, node_settings
from agentos.cli.pasteable import pasteable
from agentos.infra import nats_server
from agentos.infra.federation.node import load_peers
from agentos.infra.federation.peers_file import PeersFileError
from agentos.infra.federation.tls import own_context
from agentos.infra.node.durability import durability_words
from agentos.infra.node.files import read_object
from agentos.infra.node.leftovers import node_leftovers
from agentos.infra.node.paths import NodePaths
from agentos.infra.settings import NodeNotStartedError, Settings

_LOG_STREAM = "LOG_0"


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command()(status)


def status(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Show whether the node is up, its processes, its log and its read models.

    Exit code 0 when it is ready, 1 when it is up but not ready, 3 when it is not up.
    """
    found = collect(node_settings(data_dir))
    if as_json:
        typer.echo(json.dumps(found, indent=1))
    else:
        _show(found)
    raise typer.Exit(
        {"ready": 0, "stopped": 3, "failed": 3, "unsupervised": 3}.get(found["state"], 1)
    )


def collect(settings: Settings) -> dict[str, Any]:
    """Return the node's status in the contract's shape."""
    paths = NodePaths(settings.data_dir)
    found = describe(paths) or _without_supervisor(settings, paths)
    last = _last_sequence(settings, paths)
    if found["state"] == "ready" and not _is_ready(found, own_context(settings)):
        found["state"] = "degraded"
    for process in found["processes"]:
        process["pss_mb"] = _pss_mb(process["pid"])
    postgres = read_object(paths.data / "postgres.json")
    return {
        **found,
        "log": {"last_sequence": last},
        "projections": _projections(settings, last),
        "data": {"node": str(paths.data), "postgres": postgres.get("home")},
        "federation": _federation(settings),
    }


def _federation(settings: Settings) -> dict[str, Any]:
    """Return how this node stands to its peers by its settings; `peers status` says more."""
    try:
        local, peers = load_peers(settings)
    except PeersFileError as exc:
        return {"stack_id": settings.stack_id, "peers": 0, "security": str(exc)}
    unsecured = [peer.stack_id for peer in peers if not peer.is_keyed]
    security = "unsecured" if unsecured else "secured" if peers else "no peers"
    return {
        "stack_id": local.stack_id,
        "peers": len(peers),
        "security": security,
        "unsecured_peers": unsecured,
    }


def _without_supervisor(settings: Settings, paths: NodePaths) -> dict[str, Any]:
    left = node_leftovers(paths)
    last = read_object(paths.state).get("state")
    state = "unsupervised" if left else "failed" if last == "failed" else "stopped"
    return {
        "state": state,
        "mode": settings.profile,
        "durability": durability_words(settings, None),
        "endpoints": settings.endpoints,
        "processes": [
            {"name": p.name(), "pid": p.pid, "state": state, "restarts": 0, "started_at": None}
            for p in left
        ],
        "supervisor": {"pid": None},
    }


def _is_ready(found: dict[str, Any], tls: ssl.SSLContext | None) -> bool:
    running = all(process["state"] == "running" for process in found["processes"])
    return running and all(_answers(endpoint, tls) for endpoint in found["endpoints"].values())


def _answers(endpoint: str, tls: ssl.SSLContext | None) -> bool:
    used = tls if endpoint.startswith("https:") else None
    try:
        with urllib.request.urlopen(f"{endpoint}/readyz", timeout=2, context=used) as answer:  # noqa: S310 - ours
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def _last_sequence(settings: Settings, paths: NodePaths) -> int | None:
    if settings.nats_url:
        return asyncio.run(_ask_nats(settings.nats_url))
    server = nats_server.load_nats(paths.nats)
    return server.last_sequence(_LOG_STREAM) if server else None


async def _ask_nats(url: str) -> int | None:
    import nats  # noqa: PLC0415 - heavy
    from nats.errors import Error  # noqa: PLC0415 - as above

    async def quiet(_error: Exception) -> None:
        return

    try:
        async with asyncio.timeout(3):
            client = await nats.connect(url, error_cb=quiet, max_reconnect_attempts=1)
            try:
                return int((await client.jetstream().stream_info(_LOG_STREAM)).state.last_seq)
            finally:
                await client.close()
    except (OSError, Error):
        return None


def _projections(settings: Settings, last: int | None) -> list[dict[str, Any]]:
    import psycopg  # noqa: PLC0415 - heavy

    from agentos.projections.queries import POSITIONS  # noqa: PLC0415 - as above

    try:
        dsn = settings.runtime().postgres_dsn
        with psycopg.connect(dsn, connect_timeout=2) as connection:
            rows = connection.execute(POSITIONS).fetchall()
    except (psycopg.Error, NodeNotStartedError):
        return []
    return [
        {"name": name, "position": position, "lag_events": max(0, (last or position) - position)}
        for name, position in rows
    ]


def _pss_mb(pid: int | None) -> float | None:
    """Return the proportional memory of the process and all it started."""
    import psutil  # noqa: PLC0415 - only here

    if pid is None:
        return None
    try:
        root = psutil.Process(pid)
        found = [p.memory_full_info() for p in (root, *root.children(recursive=True))]
    except psutil.Error:
        return None
    return round(sum(getattr(info, "pss", info.rss) for info in found) / 2**20, 1)


def _show(found: dict[str, Any]) -> None:
    from rich.console import Console  # noqa: PLC0415 - only when it is shown
    from rich.table import Table  # noqa: PLC0415 - as above

    console = Console()
    console.print(f"durability: {found['durability']}", soft_wrap=True, highlight=False)
    console.print(f"{found['state']}, mode {found['mode']}, data in {found['data']['node']}")
    if found["data"]["postgres"]:
        console.print(f"PostgreSQL in {found['data']['postgres']}", soft_wrap=True)
    for name, endpoint in found["endpoints"].items():
        console.print(f"{name}: {endpoint}")
    federation = found["federation"]
    if federation["security"] == "unsecured":
        who = ", ".join(federation["unsecured_peers"])
        console.print(f"federation is UNSECURED: no keys or certificates with {who}")
    elif federation["peers"]:
        console.print(f"federation: {federation['stack_id']}, {federation['peers']} peers")
    table = Table("process", "pid", "state", "restarts", "started at", "PSS MB", box=None)
    for p in found["processes"]:
        cells = (p["name"], p["pid"], p["state"], p["restarts"], p["started_at"], p["pss_mb"])
        table.add_row(*("-" if cell is None else str(cell) for cell in cells))
    console.print(table)
    last = found["log"]["last_sequence"]
    console.print("log: NATS does not say" if last is None else f"log: last sequence {last}")
    for p in found["projections"]:
        console.print(f"projection {p['name']}: {p['position']} ({p['lag_events']} behind)")
    if found["state"] in ("stopped", "failed", "unsupervised"):
        step = pasteable("next: agentos up")
        console.print(step, soft_wrap=True, markup=False, highlight=False)
