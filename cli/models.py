"""`agentos models …`."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from agentos.cli.api_client import FAILED, Url, connect, end
from agentos.cli.options import AsJson, DataDir
from agentos.cli.tables import show_json, show_table

PATH: Final = "/v1/admin/models"
app = typer.Typer(no_args_is_help=True)
Version = Annotated[int | None, typer.Option(min=0, help="As it was published then.")]
Expected = Annotated[
    int | None,
    typer.Option("--expected-version", min=0, help="Fail if another version holds by now."),
]
File = Annotated[Path, typer.Argument(help="The whole document, JSON.", exists=True)]


def register(main: typer.Typer) -> None:
    """Add the commands of this file."""
    main.add_typer(app, name="models", help="The node's backends, models, prices and routes.")


@app.command("list")
def list_models(url: Url = None, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """List the models, with their prices in dollars for a million tokens."""
    answer = connect(url, data_dir).call("GET", PATH)
    document = answer["catalog"]["document"]
    if as_json:
        show_json({"version": answer["catalog"]["version"], "models": document["models"]})
        return
    rows = [
        (
            model["model_id"],
            ", ".join(model["capabilities"]),
            model.get("tier"),
            model.get("context_window_tokens"),
            model.get("max_output_tokens"),
            model.get("price", {}).get("input_per_million"),
            model.get("price", {}).get("output_per_million"),
        )
        for model in document["models"]
    ]
    columns = ("model", "can", "tier", "context", "max output", "$ in", "$ out")
    show_table(columns, rows)
    for backend in document["backends"]:
        if backend["any_model"]:
            typer.echo(f"and any other model of {backend['name']}")


@app.command()
def routes(url: Url = None, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """List the routes: what is tried for a name, in which order."""
    answer = connect(url, data_dir).call("GET", PATH)
    found = answer["catalog"]["document"]["routes"]
    if as_json:
        show_json({"version": answer["catalog"]["version"], "routes": found})
        return
    columns = ("route", "for", "step", "model", "share", "limits")
    show_table(columns, (row for route in found for row in _rows(route)))


@app.command()
def show(
    version: Version = None, url: Url = None, data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """Print the whole catalog; without --json the document alone, fit for `models publish`."""
    answer = connect(url, data_dir).call("GET", PATH, version=version)
    show_json(answer if as_json else answer["catalog"]["document"])


@app.command()
def versions(url: Url = None, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """List every version that was published, the newest first."""
    answer = connect(url, data_dir).call("GET", f"{PATH}/versions")
    if as_json:
        show_json(answer)
        return
    columns = ("version", "source", "published_at", "principal_id")
    show_table(columns, ([one.get(name) for name in columns] for one in answer["versions"]))


@app.command()
def publish(
    file: File,
    expected_version: Expected = None,
    url: Url = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Publish a document as the node's catalog; it holds at once, for every process."""
    from agentos.infra.models.catalog_file import (  # noqa: PLC0415 - seldom needed
        ModelsFileError,
        read_models_file,
    )

    try:
        read_models_file(file)
    except ModelsFileError as exc:
        end("\n".join(f"error: {problem}" for problem in exc.problems), FAILED)
    body = {"document": json.loads(file.read_text()), "expected_version": expected_version}
    answer = connect(url, data_dir).call("PUT", PATH, body)
    if as_json:
        show_json(answer)
    else:
        typer.echo(f"version {answer['catalog']['version']} holds")


def _rows(route: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
    for number, step in enumerate(route["chain"], 1):
        for target in step["targets"]:
            limits = [f"{n}={target[n]}" for n in ("max_latency_ms", "max_cost_usd") if n in target]
            how = _share(target, step["targets"])
            what = ", ".join(limits)
            yield route["name"], route["operation"], number, target["model_id"], how, what
    for shadow in route["shadow"]:
        how = f"copy of {shadow['percent']:g}%"
        yield route["name"], route["operation"], "shadow", shadow["model_id"], how, None


def _share(target: Mapping[str, Any], targets: list[dict[str, Any]]) -> str:
    if canary := target.get("canary"):
        return f"canary: {canary['percent']:g}% of {canary['by']}s"
    whole = sum(other["weight"] for other in targets if "canary" not in other)
    return f"{100 * target['weight'] / whole:.4g}%"
