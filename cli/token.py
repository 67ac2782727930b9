"""`agentos token`: a signed local token, in demo and dev."""

import json
import time
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from agentos.cli.options import AsJson, DataDir, node_settings
from agentos.infra.settings import NodeNotStartedError, Settings

ISSUER, AUDIENCE = "agentos-local", "agentos"


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command()(token)


def token(
    role: Annotated[str, typer.Option(help="tenant_user, tenant_admin, platform_admin …")],
    tenant: Annotated[str | None, typer.Option(help="Tenant; the default one without.")] = None,
    scopes: Annotated[str | None, typer.Option(help="Fewer scopes than the role's.")] = None,
    ttl: Annotated[int, typer.Option(min=1, help="Seconds that it is valid.")] = 3600,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Print a JWT for a caller of this node; demo and dev only."""
    settings = node_settings(data_dir)
    if settings.profile == "prod":
        typer.echo("tokens are made in demo and dev only; prod has its own issuer", err=True)
        raise typer.Exit(1)
    chosen = scopes_of(role, scopes)
    made, expires = sign(settings, tenant or settings.default_tenant, role, chosen, ttl)
    if as_json:
        expires_at = datetime.fromtimestamp(expires, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        typer.echo(json.dumps({"token": made, "expires_at": expires_at}))
    else:
        typer.echo(made)


def sign(
    settings: Settings, tenant: str, role: str, scopes: str, ttl: int = 3600
) -> tuple[str, int]:
    """Return a token signed with the node's secret, and the second at which it expires."""
    import jwt  # noqa: PLC0415 - heavy

    secret = settings.runtime().jwt_secret
    if not secret:
        raise NodeNotStartedError(["the node has no signing secret yet; start it: agentos up"])
    now = int(time.time())
    claims: dict[str, Any] = {
        "tenant_id": tenant,
        "sub": _principal(tenant, role),
        "scope": scopes,
        "roles": [role],
        "iat": now,
        "nbf": now,
        "exp": now + ttl,
        "iss": ISSUER,
        "aud": AUDIENCE,
    }
    return jwt.encode(claims, secret, algorithm="HS256"), now + ttl


def _principal(tenant: str, role: str) -> str:
    match role:
        case "platform_admin":
            return "usr_platform_admin"
        case "tenant_admin":
            return f"usr_{tenant}_admin"
        case _:
            return f"usr_{role}"


def scopes_of(role: str, asked: str | None) -> str:
    """Return the scopes to put into a token: those asked for, else all of the role's."""
    from agentos.domain.auth import ROLE_SCOPES  # noqa: PLC0415 - heavy

    if role not in ROLE_SCOPES:
        typer.echo(f"no role {role}; there are: {', '.join(ROLE_SCOPES)}", err=True)
        raise typer.Exit(2)
    return " ".join((asked or " ".join(sorted(ROLE_SCOPES[role]))).replace(",", " ").split())
