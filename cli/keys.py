"""`agentos keys …`."""

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from agentos.cli.api_client import WRONG_USAGE, Api, Url, connect, end, part
from agentos.cli.options import AsJson, DataDir
from agentos.cli.tables import show_json, show_lines, show_table

DAYS: Final = 86_400
app = typer.Typer(no_args_is_help=True)
Tenant = Annotated[str | None, typer.Option(help="Whose key; the default tenant's without.")]
KeyId = Annotated[str, typer.Argument(metavar="KEY", help="The key's id.")]


def register(main: typer.Typer) -> None:
    """Add the commands of this file."""
    main.add_typer(app, name="keys", help="Issue, rotate and revoke API keys.")


@app.command()
def issue(  # noqa: PLR0917 - a command has the options it has
    tenant: Tenant = None,
    roles: Annotated[
        list[str] | None, typer.Option("--role", help="tenant_service without; may come again.")
    ] = None,
    scopes: Annotated[str | None, typer.Option(help="Fewer scopes than the roles'.")] = None,
    name: Annotated[str | None, typer.Option(help="What people call it.")] = None,
    principal: Annotated[str | None, typer.Option(help="Whom it identifies.")] = None,
    kind: Annotated[str, typer.Option(help="api or subscriber.")] = "api",
    ttl: Annotated[int | None, typer.Option(min=1, help="Seconds that it is valid.")] = None,
    url: Url = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Make a key and print its secret, this once."""
    body: dict[str, Any] = {"kind": kind}
    if roles:
        body["roles"] = roles
    if scopes is not None:
        body["scopes"] = scopes.replace(",", " ").split()
    if name is not None:
        body["name"] = name
    if principal is not None:
        kind_of = "user" if principal.startswith("usr_") else "service"
        body["principal"] = {"principal_id": principal, "principal_type": kind_of}
    if ttl is not None:
        body["expires_at"] = f"{datetime.fromtimestamp(time.time() + ttl, UTC).isoformat()}"
    api, path = _keys(url, data_dir, tenant)
    _show_secret(api.call("POST", path, body), as_json=as_json)


@app.command("list")
def list_(
    tenant: Tenant = None, url: Url = None, data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """List a tenant's keys; secrets are never shown."""
    api, path = _keys(url, data_dir, tenant)
    answer = api.pages(path, "keys")
    if as_json:
        show_json(answer)
        return
    names = ("key_id", "name", "kind", "status", "prefix", "created_at", "expires_at")
    show_table(
        (*names, "roles", "principal"),
        (
            (
                *(key.get(name) for name in names),
                " ".join(key["roles"]),
                key["principal"]["principal_id"],
            )
            for key in answer["keys"]
        ),
    )


@app.command()
def rotate(
    key: KeyId,
    tenant: Tenant = None,
    overlap: Annotated[
        int, typer.Option(min=0, max=30 * DAYS, help="Seconds that the old secret still holds.")
    ] = 3600,
    url: Url = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Give a key a new secret and print it, this once."""
    api, path = _keys(url, data_dir, tenant)
    answer = api.call("POST", f"{path}/{part(key)}:rotate", {"overlap_seconds": overlap})
    _show_secret(answer, as_json=as_json)


@app.command()
def revoke(
    key: KeyId,
    tenant: Tenant = None,
    url: Url = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Let a key identify nobody, at once."""
    api, path = _keys(url, data_dir, tenant)
    answer = api.call("DELETE", f"{path}/{part(key)}")
    if as_json:
        show_json(answer)
    else:
        show_lines(answer["key"])


def _keys(url: str | None, data_dir: Path | None, tenant: str | None) -> tuple[Api, str]:
    api = connect(url, data_dir)
    chosen = tenant or api.default_tenant
    if not chosen:
        end("--tenant is needed: there is no default tenant", WRONG_USAGE)
    return api, f"/v1/admin/tenants/{part(chosen)}/keys"


def _show_secret(answer: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        show_json(answer)
        return
    show_lines(answer["key"])
    typer.echo(f"\nthe secret, shown this once:\n{answer['secret']}")
