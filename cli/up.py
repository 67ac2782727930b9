"""`agentos up` and `agentos redeploy`."""

import json
import signal
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from agentos.cli.node_client import describe, start_supervisor, stop_node, watch_start
from agentos.cli.options import AsJson, DataDir, node_settings
from agentos.cli.pasteable import pasteable
from agentos.infra.node.durability import durability_words
from agentos.infra.node.last_start import changed_settings, remember_start
from agentos.infra.node.leftovers import supervisors
from agentos.infra.node.marker import remembered_flags, update_marker
from agentos.infra.node.paths import NodePaths
from agentos.infra.node.preflight import data_directory
from agentos.infra.settings import Settings

Mode = Annotated[str | None, typer.Option("--mode", help="demo, dev or prod.")]
Port = typer.Option(help="Port of this gateway.", show_default=False)


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command()(up)
    app.command()(redeploy)


def up(  # noqa: PLR0917 - a command has the options it has
    mode: Mode = None,
    foreground: Annotated[bool, typer.Option("--foreground", help="Stay.")] = False,
    data_dir: DataDir = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    orchestrator_port: Annotated[int | None, Port] = None,
    model_policy_port: Annotated[int | None, Port] = None,
    federation_port: Annotated[int | None, Port] = None,
    durability: Annotated[str | None, typer.Option(help="power or process.")] = None,
    as_json: AsJson = False,
) -> None:
    """Start the node in the background and return when it is ready."""
    flags = {
        "AGENTOS_PROFILE": mode,
        "AGENTOS_HOST": host,
        "AGENTOS_ORCHESTRATOR_PORT": _text(orchestrator_port),
        "AGENTOS_MODEL_POLICY_PORT": _text(model_policy_port),
        "AGENTOS_FEDERATION_PORT": _text(federation_port),
        "AGENTOS_DURABILITY": durability,
    }
    settings = node_settings(data_dir, flags)
    _remember(settings, flags)
    if foreground:
        raise typer.Exit(_stay(settings, as_json=as_json))
    raise typer.Exit(bring_up("up", settings, as_json=as_json))


def redeploy(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Stop the node, start it again with the same flags, and keep all data."""
    settings = node_settings(data_dir)
    stop_node(NodePaths(settings.data_dir))
    raise typer.Exit(bring_up("redeploy", settings, as_json=as_json))


def bring_up(action: str, settings: Settings, *, as_json: bool) -> int:
    """Start the node or join a start that goes on, show it, report it; return the exit code."""
    from rich.console import Console  # noqa: PLC0415 - only when something is shown

    from agentos.cli import phases, report  # noqa: PLC0415 - as above

    paths = NodePaths(settings.data_dir)
    console = Console(stderr=as_json)
    running = describe(paths)
    said = running["durability"] if running else durability_words(settings, None)
    console.print(f"durability: {said}", soft_wrap=True, highlight=False)
    if running and running["mode"] != settings.profile:
        _say(console, f"already up in mode {running['mode']}; to change it: agentos redeploy")
    data_directory(settings)
    _say_changes(console, settings, running=running is not None)
    process = None if running else start_supervisor(settings)
    events = []
    for event in watch_start(paths, process):
        events.append(event)
        phases.show(console, event)
    if not events or events[-1]["event"] == "check":
        _say(console, "the start was interrupted; next: agentos status")
    written = report.write(action, settings, events)
    if as_json:
        typer.echo(json.dumps(written.content, indent=1))
    if not written.ok:
        return 1
    return _introduce(console, settings, events[-1], written.path)


def _say(console: Any, text: str) -> None:
    console.print(pasteable(text), soft_wrap=True, markup=False, highlight=False)


def _say_changes(console: Any, settings: Settings, *, running: bool) -> None:
    """Say which settings differ from the last start; a start that begins now is the next last."""
    paths = NodePaths(settings.data_dir)
    changes = changed_settings(paths, settings)
    if changes:
        then = "; to apply them: agentos redeploy" if running else ""
        kept = "only flags are remembered, other settings go into .agentos.env"
        lost = f" ({kept})" if any(text.endswith("(no longer set)") for text in changes) else ""
        _say(console, f"settings that differ from the last start: {', '.join(changes)}{lost}{then}")
    if not running:
        remember_start(paths, settings)


def _introduce(console: Any, settings: Settings, done: dict[str, Any], path: Path) -> int:
    for name, endpoint in settings.endpoints.items():
        console.print(f"report      {name}: {endpoint}", highlight=False)
    console.print(f"report      ready in {done['ms']} ms; {path}", soft_wrap=True, highlight=False)
    if settings.profile != "demo":
        return 0
    from agentos.cli.first_run import show_first_run  # noqa: PLC0415 - demo only

    return 0 if show_first_run(console, settings) else 1


def _remember(settings: Settings, flags: dict[str, str | None]) -> None:
    data_directory(settings)
    paths = NodePaths(settings.data_dir)
    kept = {**remembered_flags(paths), **{name: value for name, value in flags.items() if value}}
    update_marker(paths, flags=kept)


def _stay(settings: Settings, *, as_json: bool) -> int:
    """Start the node and wait until it ends; SIGINT and SIGTERM end it, at any moment."""

    def end(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)
    paths = NodePaths(settings.data_dir)
    try:
        code = bring_up("up", settings, as_json=as_json)
        while code == 0 and supervisors(paths):
            time.sleep(1)
        return code
    except KeyboardInterrupt:
        stop_node(paths)
        return 0


def _text(port: int | None) -> str | None:
    return None if port is None else str(port)
