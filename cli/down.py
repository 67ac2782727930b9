"""`agentos down`, `agentos restart` and `agentos nuke`."""

import shutil
from pathlib import Path
from typing import Annotated

import typer

from agentos.cli.node_client import describe, stop_node
from agentos.cli.options import AsJson, DataDir, node_settings
from agentos.infra.node.control import NoSupervisorError, ask
from agentos.infra.node.files import read_object
from agentos.infra.node.last_start import servers_of_others
from agentos.infra.node.paths import NodePaths

_FLEETING = ("run", "state.json", "runtime.json")
_DATA = (
    "nats",
    "postgres",
    "archive",
    "logs",
    "jwt_secret",
    "audit_key.pem",
    "postgres.json",
    "node.json",
    "node.lock",
    "federation_keys",
    "capsule_key",
    "content_key",
)


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command()(down)
    app.command()(restart)
    app.command()(nuke)


def down(data_dir: DataDir = None) -> None:
    """Stop the node; all data stays."""
    paths = NodePaths(node_settings(data_dir).data_dir)
    was_up = describe(paths) is not None
    left = stop_node(paths)
    if left:
        typer.echo(f"ended {left} processes that an earlier node left behind")
    typer.echo("the node is down" if was_up or left else "the node was not up")


def restart(
    service: Annotated[str, typer.Argument(help="A process, as `agentos status` names it.")],
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Stop one process of the node and start it again."""
    import json  # noqa: PLC0415 - as small as the command

    paths = NodePaths(node_settings(data_dir).data_dir)
    answer = next(ask(paths.control, {"op": "restart", "service": service}), None)
    if answer is None:
        raise NoSupervisorError("the supervisor gave no answer")
    if "error" in answer:
        typer.echo(answer["error"], err=True)
        raise typer.Exit(2)
    if as_json:
        typer.echo(json.dumps(answer))
        return
    for process in answer["restarted"]:
        typer.echo(f"{process['name']} is {process['state']}, pid {process['pid']}")


def nuke(
    hard: Annotated[bool, typer.Option("--hard", help="Remove all data too.")] = False,
    yes_really: Annotated[bool, typer.Option("--yes-really", help="Really do it.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Stop and remove processes and sockets; with --hard, all data too."""
    from agentos.cli import report  # noqa: PLC0415 - only when something was done

    settings = node_settings(data_dir)
    paths = NodePaths(settings.data_dir)
    what = f"all data in {paths.data}" if hard else "processes and sockets (data stays)"
    if not yes_really:
        typer.echo(f"this removes {what}; to do it, add --yes-really", err=True)
        raise typer.Exit(2)
    others = servers_of_others(paths, settings) if hard else {}
    left = stop_node(paths)
    removed = _remove(paths, hard=hard)
    check = {"event": "check", "phase": "nuke", "name": "nuke", "ok": True, "ms": 0}
    detail = f"{left} leftovers ended, removed: {', '.join(map(str, removed)) or 'nothing'}"
    untouched = "; ".join(f"{name} at {place}" for name, place in others.items())
    if untouched:
        detail += f"; not touched: the data in {untouched}"
    report.write("nuke", settings, [{**check, "detail": detail}, {"event": "done"}])
    typer.echo(f"removed {what}")
    if untouched:
        typer.echo(f"not touched: the data of this node in {untouched}")


def _remove(paths: NodePaths, *, hard: bool) -> list[Path]:
    """Remove only what a node makes, so that a wrong directory loses nothing."""
    postgres = read_object(paths.data / "postgres.json")
    found = [paths.data / name for name in _FLEETING + (_DATA if hard else ())]
    if paths.control.parent.parent != paths.data:
        found.append(paths.control.parent)
    if hard and postgres:
        found += [Path(postgres["socket_dir"]), Path(postgres["home"])]
    removed = [path for path in found if path.exists()]
    for path in removed:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    if hard and paths.data.is_dir() and not any(paths.data.iterdir()):
        paths.data.rmdir()
    return removed
