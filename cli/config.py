"""`agentos config` and `agentos config check`."""

import json
from pathlib import Path
from typing import Any

import typer

from agentos.cli.options import AsJson, DataDir, node_settings
from agentos.infra.settings import SettingsError

FAILED = 1
group = typer.Typer(invoke_without_command=True)


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.add_typer(group, name="config", help="Print every setting, or check them all.")


@group.callback()
def config(context: typer.Context, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Print every setting, with its value (secrets masked) and where it came from."""
    if context.invoked_subcommand is not None:
        return
    shown = node_settings(data_dir).shown()
    if as_json:
        typer.echo(json.dumps(shown, indent=1))
        return
    width = max(len(row["name"]) for row in shown)
    for row in shown:
        typer.echo(f"{row['name']:<{width}}  {row['source']:<11}  {row['value']}")
        typer.echo(f"{'':<{width}}  {'':<11}  # {row['help']}")


@group.command()
def check(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Check the settings and the models file; exit 1 when something in them cannot hold.

    A field that is not known, a route that can never be taken, a key file that is not there:
    each is named with its place.
    """
    problems, notes = _checked(data_dir)
    if as_json:
        content: dict[str, Any] = {"ok": not problems, "problems": problems, "notes": notes}
        typer.echo(json.dumps(content, indent=1))
    else:
        for problem in problems:
            typer.echo(f"error: {problem}", err=True)
        for note in notes:
            typer.echo(note)
        if not problems:
            typer.echo("the settings and the models file hold")
    if problems:
        raise typer.Exit(FAILED)


def _checked(data_dir: Path | None) -> tuple[list[str], list[str]]:
    from agentos.domain.models.defaults import DEFAULT_CATALOG  # noqa: PLC0415 - seldom needed
    from agentos.infra.models.catalog_file import (  # noqa: PLC0415 - as above
        ModelsFileError,
        node_catalog,
    )
    from agentos.infra.models.keys import missing_keys  # noqa: PLC0415 - as above

    try:
        settings = node_settings(data_dir)
    except SettingsError as exc:
        return exc.problems, []
    try:
        catalog, _ = node_catalog(settings)
    except ModelsFileError as exc:
        return exc.problems, []
    where = f"{settings.models_file}: " if settings.models_file else ""
    missing = [where + problem for problem in missing_keys(catalog.backends, settings.data_dir)]
    notes = [
        f"note: {route.name} ({route.operation}) is as out of the box: it ends at "
        f"{route.chain[-1].targets[0].model_id}"
        for route in catalog.routes
        if settings.models_file is not None and route in DEFAULT_CATALOG.routes
    ]
    return missing, notes
