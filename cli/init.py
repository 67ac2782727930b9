"""`agentos init`: the first tenant of a `prod` node, its admin, and one key file, once."""

import asyncio
import json
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from agentos.cli.api_client import FAILED, UNREACHABLE, WRONG_USAGE, end, key_file_of
from agentos.cli.options import AsJson, DataDir, node_settings
from agentos.cli.pasteable import pasteable
from agentos.infra.node.files import read_object, write_object
from agentos.infra.node.marker import read_marker, update_marker
from agentos.infra.node.paths import NodePaths
from agentos.infra.settings import Settings


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command()(init)


def init(
    tenant: Annotated[str, typer.Option(help="Id of the first tenant, tnt_…")],
    admin: Annotated[str, typer.Option(help="Id of its admin, usr_…")],
    mode: Annotated[str | None, typer.Option("--mode", help="prod.")] = None,
    key_file: Annotated[Path | None, typer.Option(help="Where the keys go (0600).")] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Make the first tenant, its admin's key and the platform admin's: once, in prod."""
    from agentos.domain.errors import AgentOSError  # noqa: PLC0415 - heavy
    from agentos.domain.ids import FREE_ID_PATTERN, is_named_id  # noqa: PLC0415 - as above

    settings = node_settings(data_dir, {"AGENTOS_PROFILE": mode})
    if settings.profile != "prod":
        end("init is for prod: demo and dev make their tenant themselves", WRONG_USAGE)
    if not is_named_id(tenant, "tnt"):
        end(f"--tenant {tenant}: not tnt_ and letters, digits, _ or -", WRONG_USAGE)
    if not _matches(FREE_ID_PATTERN, admin):
        end("--admin: not 1-256 printable characters", WRONG_USAGE)
    path = (key_file or key_file_of(settings)).expanduser().absolute()
    pending = _is_pending(path, tenant)
    NodePaths(settings.data_dir).create()
    try:
        made = asyncio.run(_make(settings, tenant, admin, path, again=pending))
    except AgentOSError as exc:
        there = ", ".join(exc.details.get("tenants", ()))
        code = UNREACHABLE if exc.code == "dependency_unavailable" else FAILED
        end(f"error: {exc.message}{f': {there}' if there else ''}", code)
    except OSError as exc:
        end(f"error: {path} cannot be written: {exc}", FAILED)
    shown = {"tenant": made["tenant"], "key_file": str(path)}
    shown["keys"] = {role: found["key"] for role, found in made["keys"].items()}
    if as_json:
        typer.echo(json.dumps(shown, indent=1))
        return
    typer.echo(f"tenant {tenant} is made; the keys of {admin} and usr_platform_admin are in")
    typer.echo(f"{path} (readable by its owner only)")
    typer.echo(pasteable("next: agentos up --mode prod"))


def _matches(pattern: str, text: str) -> bool:
    import re  # noqa: PLC0415 - as small as its use

    return re.fullmatch(pattern, text) is not None


def _is_pending(path: Path, tenant: str) -> bool:
    """Whether an earlier `init` of this tenant began and wrote no keys; any other file stays."""
    if not path.exists():
        return False
    found = read_object(path)
    whose = found.get("tenant_id")
    if found.get("status") != "pending" or whose != tenant:
        end(f"error: {path} is there already{f', for tenant {whose}' if whose else ''}", FAILED)
    return True


async def _make(
    settings: Settings, tenant: str, admin: str, path: Path, *, again: bool
) -> dict[str, Any]:
    from agentos.handlers.app import first_admin  # noqa: PLC0415 - heavy
    from agentos.infra.jetstream.streams import provision  # noqa: PLC0415 - as above

    paths = NodePaths(settings.data_dir)
    known = bool(read_marker(paths).get("log_created"))
    url = settings.runtime().nats_url
    await provision(url, durability=settings.durability, expect_log=known)
    update_marker(paths, log_created=True)
    head = {"status": "pending", "tenant_id": tenant}
    begin = partial(write_object, path, head)
    made = await first_admin(settings, tenant, admin, again=again, begin=begin)
    keys = {
        role: {
            "principal_id": found["key"]["principal"]["principal_id"],
            "key_id": found["key"]["key_id"],
            "secret": found["secret"],
        }
        for role, found in made["keys"].items()
    }
    write_object(path, {"status": "ready", "tenant_id": tenant, "keys": keys})
    update_marker(paths, key_file=str(path))
    return made
