"""`agentos doctor`."""

import json
import platform
from collections.abc import Callable, Iterator
from typing import Any

import typer

from agentos.cli.node_client import describe
from agentos.cli.options import AsJson, DataDir, node_settings
from agentos.cli.pasteable import pasteable
from agentos.infra.node import preflight
from agentos.infra.node.errors import NodeError
from agentos.infra.node.leftovers import node_leftovers
from agentos.infra.node.paths import NodePaths
from agentos.infra.settings import Settings
from agentos.infra.unprivileged import NoUnprivilegedUserError, service_user


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command()(doctor)


def doctor(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Check what a node needs on this machine; each failed check says what to do."""
    found = list(examine(node_settings(data_dir)))
    if as_json:
        typer.echo(json.dumps({"checks": found}, indent=1))
    else:
        for check in found:
            typer.echo(
                f"{'ok    ' if check['ok'] else 'FAILED'}  {check['name']}: {check['detail']}"
            )
            if check["next"]:
                typer.echo(f"        next: {check['next']}")
    raise typer.Exit(0 if all(check["ok"] for check in found) else 1)


def examine(settings: Settings) -> Iterator[dict[str, Any]]:
    """Yield each check as `{name, ok, detail, next}`; changes nothing but the data directory."""
    paths = NodePaths(settings.data_dir)
    up = describe(paths) is not None
    left = [] if up else node_leftovers(paths)
    own = frozenset(process.pid for process in left)
    checks: dict[str, Callable[[], str]] = {
        "python": lambda: f"{platform.python_version()} on {platform.platform()}",
        "binaries": lambda: preflight.binaries(settings),
        "data directory": lambda: preflight.data_directory(settings),
        "disk": lambda: preflight.disk(settings),
        "peers": lambda: preflight.peers(settings),
        "ports": lambda: "held by this node" if up else preflight.ports(settings, own),
        "account": _account,
        "leftovers": lambda: "the node is up" if up else _leftovers(own),
    }
    for name, check in checks.items():
        try:
            yield {"name": name, "ok": True, "detail": check(), "next": ""}
        except NodeError as exc:
            yield {"name": name, "ok": False, "detail": str(exc), "next": pasteable(exc.next_step)}


def _account() -> str:
    try:
        user = service_user()
    except NoUnprivilegedUserError as exc:
        raise NodeError("account", str(exc), "useradd --system agentos") from exc
    return f"root; PostgreSQL runs as {user.name}" if user else "not root, as it should be"


def _leftovers(own: frozenset[int]) -> str:
    if own:
        raise NodeError(
            "leftovers",
            f"processes without a supervisor: {', '.join(map(str, sorted(own)))}",
            "end them and start anew: agentos up; or only end them: agentos down",
        )
    return "none"
