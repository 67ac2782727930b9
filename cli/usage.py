"""`agentos usage`: what was used, by window, model, agent or principal."""

from typing import Annotated, Any, Final

import typer

from agentos.cli.api_client import Url, connect
from agentos.cli.options import AsJson, DataDir
from agentos.cli.tables import show_json, show_table

Window = Annotated[str | None, typer.Option(help="hour, day (the default) or month.")]
Since = Annotated[str | None, typer.Option("--from", help="RFC 3339; windows that end after it.")]
Until = Annotated[str | None, typer.Option("--to", help="RFC 3339; windows that begin before it.")]
Model = Annotated[str | None, typer.Option(help="Only of this model: <backend>/<model>.")]
Agent = Annotated[str | None, typer.Option(help="Only of this agent.")]
Principal = Annotated[str | None, typer.Option(help="Only of this principal.")]
By = Annotated[
    str | None,
    typer.Option("--by", help="Told apart by: model, agent_id, principal_id, comma separated."),
]
Tenant = Annotated[str | None, typer.Option(help="Of this tenant; a platform admin may name any.")]
COLUMNS: Final = (
    "from",
    "model",
    "agent_id",
    "principal_id",
    "runs",
    "tool_calls",
    "model_calls",
    "input_tokens",
    "output_tokens",
    "cost_usd",
    "errors",
    "blocked",
    "refused",
    "interrupted",
)


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command()(usage)


def usage(  # noqa: PLR0917 - a command has the options it has
    window: Window = None,
    since: Since = None,
    until: Until = None,
    model: Model = None,
    agent: Agent = None,
    principal: Principal = None,
    by: By = None,
    tenant: Tenant = None,
    url: Url = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Print what was used of models and runs, the newest window first."""
    query = {
        "window": window,
        "from": since,
        "to": until,
        "model": model,
        "agent_id": agent,
        "principal_id": principal,
        "group_by": by,
        "tenant_id": tenant,
    }
    answer = connect(url, data_dir).pages("/v1/usage", "usage", **query)
    if as_json:
        show_json(answer)
        return
    show_table(COLUMNS, ([_cell(name, row) for name in COLUMNS] for row in answer["usage"]))


def _cell(name: str, row: dict[str, Any]) -> Any:
    return f"{row[name]:.6f}" if name == "cost_usd" else row[name]
