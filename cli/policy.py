"""`agentos policy …`."""

from pathlib import Path
from typing import Annotated, Any, Final

import typer

from agentos.cli.api_client import FAILED, Url, connect, end, part
from agentos.cli.options import AsJson, DataDir
from agentos.cli.tables import show_json, show_table

PATH: Final = "/v1/policies"
app = typer.Typer(no_args_is_help=True)
PolicyId = Annotated[str, typer.Argument(metavar="POLICY", help="The policy's id: pol_…")]
File = Annotated[Path, typer.Argument(metavar="FILE", help="A policy as JSON.")]
OfTenant = Annotated[
    str | None, typer.Option("--tenant", help="The tenant; the credential's own if not given.")
]
Cases = Annotated[
    list[str],
    typer.Option(
        "--case", help="A text, a text file, or a JSON file with a case or a list; may come again."
    ),
]


def register(main: typer.Typer) -> None:
    """Add the commands of this file."""
    main.add_typer(app, name="policy", help="Try, publish and activate policies.")


@app.command("test")
def try_(file: File, case: Cases, as_json: AsJson = False) -> None:
    """Go by a policy file on some cases, without a node; exit 1 when an expectation fails."""
    from agentos.cli import policy_cases as cases  # noqa: PLC0415 - compiles many patterns

    try:
        results = cases.run(cases.compiled(file), cases.read_cases(case))
    except cases.CaseError as exc:
        end(f"error: {exc}", FAILED)
    failed = sum(bool(result["failed"]) for result in results)
    if as_json:
        show_json({"cases": results, "failed": failed})
    else:
        for result in results:
            _show_case(result)
        typer.echo(f"{len(results)} cases, {failed} failed")
    if failed:
        raise typer.Exit(FAILED)


def _show_case(result: dict[str, Any]) -> None:
    state = "FAILED" if result["failed"] else "ok    "
    typer.echo(
        f"{state} {result['name']}: {', '.join([result['decision'], *result['reasons'][1:]])}"
    )
    if result["decision"] == "redacted":
        typer.echo(f"       {result['text']}")
    for name, told in result["failed"].items():
        typer.echo(f"       {name}: expected {told['expected']!r}, found {told['found']!r}")


@app.command()
def publish(  # noqa: PLR0917 - a command has the options it has
    policy: PolicyId,
    file: File,
    activate: Annotated[bool, typer.Option("--activate", help="Let it hold at once.")] = False,
    tenant: OfTenant = None,
    url: Url = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Publish a file as a policy's next version."""
    from agentos.cli import policy_cases as cases  # noqa: PLC0415 - as above

    try:
        document = cases.read_document(file)
    except cases.CaseError as exc:
        end(f"error: {exc}", FAILED)
    body = {"document": document.model_dump(mode="json"), "activate": activate}
    api = connect(url, data_dir)
    _show(api.call("POST", f"{PATH}/{part(policy)}", body, tenant_id=tenant), as_json=as_json)


@app.command()
def activate(
    policy: PolicyId,
    version: Annotated[int, typer.Argument(metavar="VERSION", min=1, help="Which version.")],
    tenant: OfTenant = None,
    url: Url = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Let a version of a policy hold."""
    api, path = connect(url, data_dir), f"{PATH}/{part(policy)}:activate"
    _show(api.call("POST", path, {"version": version}, tenant_id=tenant), as_json=as_json)


@app.command("list")
def list_(
    tenant: OfTenant = None, url: Url = None, data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """List a tenant's policies."""
    answer = connect(url, data_dir).pages(PATH, "policies", tenant_id=tenant)
    if as_json:
        show_json(answer)
        return
    names = ("policy_id", "name", "active_version", "latest_version", "updated_at")
    show_table(names, ([row.get(name) for name in names] for row in answer["policies"]))


@app.command()
def show(
    policy: PolicyId,
    tenant: OfTenant = None,
    url: Url = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Print a policy: its versions, and the document of the active one."""
    api = connect(url, data_dir)
    _show(api.call("GET", f"{PATH}/{part(policy)}", tenant_id=tenant), as_json=as_json)


def _show(answer: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        show_json(answer)
        return
    policy = answer["policy"]
    active = policy["active_version"]
    names = ("version", "published_at", "published_by", "rules", "active")
    show_table(
        names,
        (
            (
                version["version"],
                version.get("published_at"),
                version.get("published_by"),
                len(version["document"]["rules"]),
                "yes" if version["version"] == active else None,
            )
            for version in policy["versions"]
        ),
    )
