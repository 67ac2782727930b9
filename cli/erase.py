"""`agentos erase`: destroy the key of a data subject's content."""

from pathlib import Path
from typing import Annotated, Any

import typer

from agentos.cli.api_client import WRONG_USAGE, Url, connect, end, part
from agentos.cli.options import AsJson, DataDir, node_settings
from agentos.cli.tables import show_json, show_lines

Subject = Annotated[
    str, typer.Argument(metavar="SUBJECT", help="A person's id, or its sub_… digest.")
]
Tenant = Annotated[str | None, typer.Option(help="The tenant; the default one without.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only count what would be reached.")]
YesReally = Annotated[bool, typer.Option("--yes-really", help="Do not ask.")]


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command()(erase)


def erase(  # noqa: PLR0917 - a command has the options it has
    subject: Subject,
    tenant: Tenant = None,
    dry_run: DryRun = False,
    yes_really: YesReally = False,
    url: Url = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Make the content of a data subject unreadable for ever, everywhere; print what it reached.

    What was sealed with the subject's key cannot be opened any more, by nobody and in no copy.
    """
    tenant_id = tenant or _default_tenant(data_dir)
    if not (dry_run or yes_really):
        asked = f"this erases the content of {subject} in {tenant_id} for ever; type its id"
        if typer.prompt(asked, default="", err=True) != subject:
            end("not confirmed; nothing was done", WRONG_USAGE)
    answer = connect(url, data_dir).call(
        "POST",
        f"/v1/admin/tenants/{part(tenant_id)}/subjects:erase",
        {"subject": subject, "confirm": subject, "dry_run": dry_run},
    )
    if as_json:
        show_json(answer)
    else:
        _show(answer["erasure"])


def _show(erasure: dict[str, Any]) -> None:
    refolded = {one["projection"]: one["rows"] for one in erasure["refolded"]}
    show_lines({**erasure, "refolded": refolded})
    if erasure["dry_run"]:
        typer.echo("nothing was done: it was a dry run")
    elif not erasure["done_now"]:
        typer.echo("there was nothing to erase" + (" any more" if erasure["erased"] else ""))


def _default_tenant(data_dir: Path | None) -> str:
    found = node_settings(data_dir).default_tenant
    if not found:
        end("--tenant is needed: this node has no default tenant", WRONG_USAGE)
    return found
