"""`agentos tenants …`."""

from typing import Annotated, Any, Final

import typer

from agentos.cli.api_client import WRONG_USAGE, Url, connect, end, object_from, part
from agentos.cli.options import AsJson, DataDir
from agentos.cli.tables import show_json, show_lines, show_table

PATH: Final = "/v1/admin/tenants"
app = typer.Typer(no_args_is_help=True)
Tenant = Annotated[str, typer.Argument(metavar="TENANT", help="The tenant's id.")]
Name = Annotated[str | None, typer.Option(help="What people call it.")]
Plan = Annotated[str | None, typer.Option(help="standard, premium or demo.")]
Quotas = Annotated[str | None, typer.Option(help="JSON object, or @file.")]
Entitlements = Annotated[str | None, typer.Option(help="JSON object, or @file.")]
Policy = Annotated[str | None, typer.Option(help="JSON object, or @file.")]
Tags = Annotated[list[str] | None, typer.Option("--tag", help="A tag; may come again.")]
Billing = Annotated[str | None, typer.Option("--billing-account", help="Who pays.")]
Erasure = Annotated[
    bool | None, typer.Option("--erasure/--no-erasure", help="Seal the content of new runs.")
]
Bodies = Annotated[
    bool | None,
    typer.Option("--record-bodies/--no-record-bodies", help="Keep direct calls' bodies, sealed."),
]
Keep = Annotated[
    list[str] | None,
    typer.Option("--keep", help="How long what is kept: runs=90d, usage=forever; may come again."),
]
MaxRuns = Annotated[int | None, typer.Option("--max-concurrent-runs", help="Runs at once.")]


def register(main: typer.Typer) -> None:
    """Add the commands of this file."""
    main.add_typer(app, name="tenants", help="Make and administer tenants.")


@app.command()
def create(  # noqa: PLR0917 - a command has the options it has
    tenant: Tenant,
    name: Name = None,
    plan: Plan = None,
    quotas: Quotas = None,
    max_concurrent_runs: MaxRuns = None,
    entitlements: Entitlements = None,
    policy: Policy = None,
    tags: Tags = None,
    billing_account: Billing = None,
    erasure: Erasure = None,
    record_bodies: Bodies = None,
    keep: Keep = None,
    url: Url = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Make a tenant; its id is given once, for ever."""
    profile = _profile(name, plan, quotas, max_concurrent_runs, entitlements, policy)
    profile |= (
        _metadata(tags, billing_account) | _privacy(erasure, record_bodies) | _retention(keep)
    )
    body = {"tenant_id": tenant, **profile}
    _show(connect(url, data_dir).call("POST", PATH, body), as_json=as_json)


@app.command()
def update(  # noqa: PLR0917 - a command has the options it has
    tenant: Tenant,
    name: Name = None,
    plan: Plan = None,
    quotas: Quotas = None,
    max_concurrent_runs: MaxRuns = None,
    entitlements: Entitlements = None,
    policy: Policy = None,
    tags: Tags = None,
    billing_account: Billing = None,
    erasure: Erasure = None,
    record_bodies: Bodies = None,
    keep: Keep = None,
    url: Url = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Change what is given and leave the rest; a null in the JSON brings the default back."""
    changes = _profile(name, plan, quotas, max_concurrent_runs, entitlements, policy)
    changes |= (
        _metadata(tags, billing_account) | _privacy(erasure, record_bodies) | _retention(keep)
    )
    if not changes:
        end("nothing to change was given", WRONG_USAGE)
    answer = connect(url, data_dir).call("PATCH", f"{PATH}/{part(tenant)}", changes)
    _show(answer, as_json=as_json)


@app.command("list")
def list_(url: Url = None, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """List the tenants."""
    answer = connect(url, data_dir).pages(PATH, "tenants")
    if as_json:
        show_json(answer)
        return
    show_table(
        ("tenant", "name", "status", "plan", "runs at once", "created"),
        (
            (
                t["tenant_id"],
                t["name"],
                t["status"],
                t["plan_tier"],
                t["quotas"].get("runs", {}).get("max_concurrent_runs", "no limit"),
                t["created_at"],
            )
            for t in answer["tenants"]
        ),
    )


@app.command()
def show(
    tenant: Tenant, url: Url = None, data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """Print one tenant; its quotas are those that hold."""
    _show(connect(url, data_dir).call("GET", f"{PATH}/{part(tenant)}"), as_json=as_json)


@app.command()
def enable(
    tenant: Tenant, url: Url = None, data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """Let a tenant act again."""
    answer = connect(url, data_dir).call("POST", f"{PATH}/{part(tenant)}:enable", {})
    _show(answer, as_json=as_json)


@app.command()
def disable(
    tenant: Tenant,
    runs: Annotated[str, typer.Option(help="What its runs do: drain or cancel.")] = "drain",
    url: Url = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Let a tenant do nothing more."""
    if runs not in ("drain", "cancel"):
        end(f"--runs {runs}: it is drain or cancel", WRONG_USAGE)
    answer = connect(url, data_dir).call("POST", f"{PATH}/{part(tenant)}:disable", {"runs": runs})
    _show(answer, as_json=as_json)


@app.command()
def delete(
    tenant: Tenant,
    yes_really: Annotated[bool, typer.Option("--yes-really", help="Do not ask.")] = False,
    url: Url = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Remove a disabled tenant for ever; its audit chain stays."""
    api = connect(url, data_dir)
    if not yes_really:
        typed = typer.prompt(f"this removes {tenant} for ever; type its id", default="", err=True)
        if typed != tenant:
            end("not confirmed; nothing was done", WRONG_USAGE)
    answer = api.call("DELETE", f"{PATH}/{part(tenant)}", confirm=tenant)
    _show(answer, as_json=as_json)


@app.command()
def usage(
    tenant: Tenant, url: Url = None, data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """Print what a tenant has used since midnight (UTC)."""
    answer = connect(url, data_dir).call("GET", f"{PATH}/{part(tenant)}/usage")
    if as_json:
        show_json(answer)
        return
    names = ("window", "from", "agent_id", "runs", "tool_calls", "runs_active", "runs_limit")
    show_table(names, ([row.get(name) for name in names] for row in answer["usage"]))


def _show(answer: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        show_json(answer)
    else:
        show_lines(answer["tenant"])


def _profile(
    name: str | None,
    plan: str | None,
    quotas: str | None,
    max_runs: int | None,
    entitlements: str | None,
    policy: str | None,
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if name is not None:
        found["name"] = name
    if plan is not None:
        found["plan_tier"] = plan
    given = (("quotas", quotas), ("entitlements", entitlements), ("policy", policy))
    for field, text in given:
        if text is not None:
            found[field] = object_from(text, f"--{field}")
    if max_runs is not None:
        runs = found.setdefault("quotas", {}).setdefault("runs", {})
        runs["max_concurrent_runs"] = max_runs
    return found


def _metadata(tags: list[str] | None, billing_account: str | None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if tags:
        found["tags"] = tags
    if billing_account is not None:
        found["billing_account"] = billing_account
    return {"metadata": found} if found else {}


def _privacy(erasure: bool | None, record_bodies: bool | None) -> dict[str, Any]:
    switches = (("erasure", erasure), ("record_bodies", record_bodies))
    found = {name: value for name, value in switches if value is not None}
    return {"privacy": found} if found else {}


def _retention(keep: list[str] | None) -> dict[str, Any]:
    found = {}
    for said in keep or ():
        kind, _, age = said.partition("=")
        if not age:
            end(f"--keep {said}: it is KIND=AGE, such as runs=90d", WRONG_USAGE)
        found[kind] = age
    return {"retention": found} if found else {}
