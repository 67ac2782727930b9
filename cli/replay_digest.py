"""`agentos replay digest`: what stands for the rows of the read models, table by table."""

import asyncio
from typing import Annotated, Any

import psycopg
import typer
from psycopg import IsolationLevel

from agentos.cli.options import AsJson, DataDir, node_settings
from agentos.cli.replay_sources import UNREACHABLE, USAGE, end, print_json
from agentos.cli.tables import show_table
from agentos.infra.settings import NodeNotStartedError, SettingsError
from agentos.projections.all import PROJECTIONS, make_projectors
from agentos.projections.digest import digest_tables
from agentos.projections.schema import LIVE, connect
from agentos.projections.writer import read_places


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command("digest")(digest)


def digest(
    projection: Annotated[
        str | None, typer.Argument(help=f"One of {', '.join(PROJECTIONS)}; all without it.")
    ] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Print a digest of each table of a projection, and the log position it belongs to.

    Equal digests at one position are equal rows, on any node and behind any rebuild.
    """
    if projection is not None and projection not in PROJECTIONS:
        end(f"there is no projection {projection!r}; there are {', '.join(PROJECTIONS)}", USAGE)
    names = list(PROJECTIONS) if projection is None else [projection]
    try:
        found = asyncio.run(_digest(node_settings(data_dir).runtime().postgres_dsn, names))
    except (NodeNotStartedError, psycopg.Error) as exc:
        end(f"{exc}\nPostgreSQL must run: start the node with `agentos up`", UNREACHABLE)
    except SettingsError as exc:
        end(str(exc), USAGE)
    if as_json:
        print_json(found)
        return
    rows = [
        (p["name"], p["position"], t["table"], f"{t['rows']:,}", t["digest"])
        for p in found["projections"]
        for t in p["tables"]
    ]
    show_table(("projection", "position", "table", "rows", "digest"), rows)


async def _digest(dsn: str, names: list[str]) -> dict[str, Any]:
    async with await connect(dsn, LIVE, "agentos-digest") as conn:
        await conn.set_isolation_level(IsolationLevel.REPEATABLE_READ)
        async with conn.transaction():
            places = await read_places(conn, names)
            projections = [
                {
                    "name": projector.name,
                    "version": places[projector.name].version,
                    "position": places[projector.name].position,
                    "tables": [
                        found._asdict()
                        for found in await digest_tables(conn, LIVE, projector.tables)
                    ],
                }
                for projector in make_projectors(tuple(names))
                if projector.name in places
            ]
    return {"projections": projections}
