"""`agentos logs`."""

import time
from pathlib import Path
from typing import Annotated

import typer

from agentos.cli.options import DataDir, node_settings
from agentos.infra.node.logfiles import tail_of
from agentos.infra.node.paths import NodePaths


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command()(logs)


def logs(
    service: Annotated[str | None, typer.Argument(help="A process; all of them without.")] = None,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on as lines come.")] = False,
    lines: Annotated[int, typer.Option("-n", min=0, help="How many past lines.")] = 50,
    data_dir: DataDir = None,
) -> None:
    """Print the log of one process, or of all."""
    paths = NodePaths(node_settings(data_dir).data_dir)
    names = sorted(path.stem for path in paths.logs.glob("*.log"))
    chosen = [n for n in names if service in (None, n, n.rpartition("-")[0])]
    if not chosen:
        known = ", ".join(names) or "none, the node was never started"
        typer.echo(f"no log of {service or 'anything'}; there are: {known}", err=True)
        raise typer.Exit(2 if names else 3)
    prefix = len(chosen) > 1
    sizes = {name: _size(paths.log_of(name)) for name in chosen}
    for name in chosen:
        for line in tail_of(paths, name, lines):
            typer.echo(f"{name}: {line}" if prefix else line)
    while follow:
        time.sleep(0.2)
        for name in chosen:
            sizes[name] = _print_new(paths.log_of(name), sizes[name], f"{name}: " if prefix else "")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _print_new(path: Path, seen: int, prefix: str) -> int:
    """Print what was written behind `seen` up to the last whole line; return the new place."""
    size = _size(path)
    if size == seen:
        return seen
    with path.open("rb") as log:
        log.seek(seen if size > seen else 0)
        start = log.tell()
        whole, newline, _ = log.read().rpartition(b"\n")
    for line in whole.decode(errors="replace").splitlines():
        typer.echo(prefix + line)
    return start + len(whole) + len(newline)
