"""`agentos run …`: what runs wait for, and a person's decision on it."""

from typing import Annotated, Any, Final

import typer

from agentos.cli.api_client import WRONG_USAGE, Api, Url, connect, end, part
from agentos.cli.options import AsJson, DataDir
from agentos.cli.tables import show_json, show_table

COLUMNS: Final = ("approval_id", "status", "tool_id", "reason", "requested_at", "expires_at", "by")
app = typer.Typer(no_args_is_help=True)
RunId = Annotated[str, typer.Argument(metavar="RUN", help="The run's id; one at a peer too.")]
ApprovalId = Annotated[
    str | None,
    typer.Argument(metavar="[APPROVAL]", help="apr_…; not needed where one waits alone."),
]
Reason = Annotated[str | None, typer.Option(help="Why; the model is told of a rejection's.")]


def register(main: typer.Typer) -> None:
    """Add the commands of this file."""
    main.add_typer(app, name="run", help="See what a run waits for, and decide on it.")


@app.command()
def approvals(
    run: RunId, url: Url = None, data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """List what a run has asked people for; with the call's arguments while it waits."""
    answer = connect(url, data_dir).call("GET", _path(run))
    if as_json:
        show_json(answer)
        return
    found = answer["approvals"]
    show_table(COLUMNS, ([one.get(name) for name in COLUMNS] for one in found))
    for one in found:
        if "input" in one:
            typer.echo(f"\n{one['approval_id']} asks to call {one['tool_id']} with:")
            show_json(one["input"])


@app.command()
def approve(
    run: RunId,
    approval: ApprovalId = None,
    reason: Reason = None,
    url: Url = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Let a tool call be made."""
    _decide("approve", run, approval, reason, connect(url, data_dir), as_json=as_json)


@app.command()
def reject(
    run: RunId,
    approval: ApprovalId = None,
    reason: Reason = None,
    url: Url = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Let a tool call not be made; the run goes on without it."""
    _decide("reject", run, approval, reason, connect(url, data_dir), as_json=as_json)


def _decide(
    decision: str, run: str, approval: str | None, reason: str | None, api: Api, *, as_json: bool
) -> None:
    chosen = approval or _the_one(api, run)
    body: dict[str, Any] = {"decision": decision}
    if reason is not None:
        body["reason"] = reason
    answer = api.call("POST", f"{_path(run)}/{part(chosen)}", body)
    if as_json:
        show_json(answer)
        return
    decided = answer["approval"]
    typer.echo(f"{decided['approval_id']} is {decided['status']}: {decided['tool_id']}")


def _the_one(api: Api, run: str) -> str:
    """Return the only approval that the run waits for; with none or several a person must say."""
    found = api.call("GET", _path(run))["approvals"]
    pending = [one["approval_id"] for one in found if one["status"] == "pending"]
    if len(pending) != 1:
        what = f"name one of {', '.join(pending)}" if pending else "it waits for none"
        end(f"error: {run}: {what}", WRONG_USAGE)
    return str(pending[0])


def _path(run: str) -> str:
    """Return where a run's approvals are."""
    return f"/v1/runs/{part(run)}/approvals"
