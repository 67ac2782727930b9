"""`agentos config`."""

import json

import typer

from agentos.cli.options import AsJson, DataDir, node_settings


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command()(config)


def config(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Print every setting, with its value (secrets masked) and where it came from."""
    shown = node_settings(data_dir).shown()
    if as_json:
        typer.echo(json.dumps(shown, indent=1))
        return
    width = max(len(row["name"]) for row in shown)
    for row in shown:
        typer.echo(f"{row['name']:<{width}}  {row['source']:<11}  {row['value']}")
        typer.echo(f"{'':<{width}}  {'':<11}  # {row['help']}")
