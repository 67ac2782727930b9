"""`agentos retention`: how long what is kept, what went of the log, and letting go at once."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from agentos.cli.api_client import FAILED, UNREACHABLE, end
from agentos.cli.log import told
from agentos.cli.options import AsJson, DataDir, node_settings
from agentos.cli.tables import show_json, show_lines, show_table

if TYPE_CHECKING:
    from agentos.handlers.retention.keeper import RetentionKeeper
    from agentos.infra.settings import Settings

COLUMNS: Final = ("tenant", "kind", "items", "commits", "before", "archive")
Work = Callable[["RetentionKeeper"], Awaitable[dict[str, Any]]]
app = typer.Typer(no_args_is_help=True)


def register(main: typer.Typer) -> None:
    """Add the commands of this file."""
    main.add_typer(app, name="retention", help="How long what is kept, and what went of the log.")


@app.command()
def status(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Print the ages, what is gone of each tenant, and the archives that it went into."""
    from agentos.handlers.retention.report import all_archives, history, shown  # noqa: PLC0415
    from agentos.infra.retention import archive_directory  # noqa: PLC0415

    settings = node_settings(data_dir)

    async def work(keeper: "RetentionKeeper") -> dict[str, Any]:
        log = keeper.log
        found = [shown((await history(log, tenant))[0]) for tenant in await keeper.touched()]
        directory = archive_directory(settings)
        named = await all_archives(log)
        return {
            "node": _ages(settings),
            "archive": str(directory.directory) if directory else "none",
            "tenants": found,
            "archives": len(named),
            "missing": directory.missing(named) if directory else [a.name for a in named],
            "unnamed": directory.unnamed(named) if directory else [],
        }

    with told():
        content = _with_keeper(settings, work)
    if as_json:
        show_json(content)
        return
    show_lines({name: value for name, value in content.items() if name != "tenants"})
    for tenant in content["tenants"]:
        show_lines(tenant)


@app.command()
def run(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would go; at most 1,000 of each.")
    ] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Let go of what is due at once, instead of in the next round; the node must run."""
    from agentos.handlers.retention.report import summary  # noqa: PLC0415

    settings = node_settings(data_dir)

    async def work(keeper: "RetentionKeeper") -> dict[str, Any]:
        if not await keeper.hears_a_projector():
            end("no projector is heard: nothing goes that the read models may lack", UNREACHABLE)
        if keeper.is_held_off:
            end("an export, a backup or a rebuild reads the log: nothing goes meanwhile", FAILED)
        found = []
        if dry_run:
            async for tenant_id, batch in keeper.due():
                plan = summary(batch.plan("", None, {}))
                found.append({"tenant_id": tenant_id, **plan, "more": batch.is_full})
        else:
            async for tenant_id, applied in keeper.round():
                said = applied.model_dump(mode="json", exclude={"gone"})
                found.append({"tenant_id": tenant_id, **said})
        return {"dry_run": dry_run, "plans": found, "waiting": keeper.waiting}

    with told():
        content = _with_keeper(settings, work)
    if as_json:
        show_json(content)
    else:
        rows = [
            (p["tenant_id"], p["kind"], p["items"], p["commits"], p["before"], p.get("archive"))
            for p in content["plans"]
        ]
        show_table(COLUMNS, rows)
    for tenant_id, why in content["waiting"].items():
        typer.echo(f"{tenant_id}: {why}", err=True)
    if content["waiting"]:
        raise typer.Exit(FAILED)


def _ages(settings: "Settings") -> dict[str, str]:
    return {
        "runs": settings.retention_runs,
        "remote_runs": settings.retention_remote_runs,
        "usage": settings.retention_usage,
        "quota": settings.retention_quota,
    }


def _with_keeper(settings: "Settings", work: Work) -> dict[str, Any]:
    import structlog  # noqa: PLC0415 - as below

    from agentos.handlers.app import retention_of  # noqa: PLC0415 - heavy

    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))

    async def connected() -> dict[str, Any]:
        async with retention_of(settings) as keeper:
            return await work(keeper)

    return asyncio.run(connected())
