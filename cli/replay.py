"""`agentos replay`: decide what was recorded again, and make what follows from the log anew."""

import asyncio
import sys
from typing import Annotated, Any

import orjson
import psycopg
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table

from agentos.cli import replay_capsules, replay_digest, replay_policy, replay_run
from agentos.cli.options import AsJson, DataDir, node_settings
from agentos.cli.pasteable import pasteable
from agentos.cli.replay_rebuild import rebuild_whole
from agentos.domain.archive import ArchiveError
from agentos.domain.errors import DependencyUnavailableError
from agentos.infra.archived_log import NotArchivedError
from agentos.infra.settings import NodeNotStartedError, SettingsError
from agentos.projections.all import PROJECTIONS
from agentos.projections.errors import ProjectionError
from agentos.projections.rebuild import Progress as Stand
from agentos.projections.rebuild import Rebuilt

FAILED, USAGE, UNREACHABLE = 1, 2, 3
PLAIN_EVERY_S = 2.0

HELP = "Decide recorded runs again, and make what follows from the log anew."
app = typer.Typer(
    add_completion=False, help=HELP, no_args_is_help=True, pretty_exceptions_enable=False
)
for group in (replay_run, replay_policy, replay_capsules, replay_digest):
    group.register(app)


@app.callback()
def replay() -> None:
    """Decide recorded runs again, and make what follows from the log anew."""


@app.command("rebuild")
def rebuild_command(
    projection: Annotated[
        str | None, typer.Argument(help=f"One of {', '.join(PROJECTIONS)}; all without it.")
    ] = None,
    without_archives: Annotated[
        bool,
        typer.Option("--without-archives", help="Go on where an archive of retention is missing."),
    ] = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Rebuild the read models from the log, beside the live ones, and switch over to them."""
    errors = Console(stderr=True)
    if projection is not None and projection not in PROJECTIONS:
        known = ", ".join(PROJECTIONS)
        errors.print(f"there is no projection {projection!r}; there are {known}")
        raise typer.Exit(USAGE)
    names = list(PROJECTIONS) if projection is None else [projection]
    try:
        settings = node_settings(data_dir)
        shown = _Shown(errors)
        with shown:
            done = asyncio.run(rebuild_whole(settings, names, shown, lossy=without_archives))
    except psycopg.errors.LockNotAvailable as exc:
        _say(f"{exc}\nsomebody holds the tables of the read models: end it and try again")
        raise typer.Exit(FAILED) from exc
    except (NodeNotStartedError, DependencyUnavailableError, psycopg.OperationalError) as exc:
        _say(f"{exc}\nNATS and PostgreSQL must run: start the node with `agentos up`")
        raise typer.Exit(UNREACHABLE) from exc
    except SettingsError as exc:
        _say(str(exc))
        raise typer.Exit(USAGE) from exc
    except (ProjectionError, NotArchivedError, ArchiveError, psycopg.Error) as exc:
        _say(f"{exc}\nthe read models are as they were")
        raise typer.Exit(FAILED) from exc
    if as_json:
        sys.stdout.write(orjson.dumps(summary(done)).decode() + "\n")
    else:
        _print(done)


def _say(text: str) -> None:
    typer.echo(pasteable(text), err=True)


def summary(done: Rebuilt) -> dict[str, Any]:
    """Return what `--json` prints: digests per table, before and after, and the pace."""
    before = {digest.table: digest for digest in done.before}
    return {
        "projections": done.projections,
        "position": done.position,
        "events": done.events,
        "seconds": round(done.seconds, 3),
        "events_per_second": round(done.rate),
        "identical": done.identical,
        "tables": [
            {
                "table": new.table,
                "rows": new.rows,
                "digest": new.digest,
                "rows_before": old.rows if (old := before.get(new.table)) else None,
                "digest_before": old.digest if old else None,
            }
            for new in done.after
        ],
    }


class _Shown:
    """The progress: a bar on a terminal, a line now and then elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._next = 0.0
        self._bar: Progress | None = None
        if console.is_terminal:
            self._bar = Progress(
                TextColumn("rebuilding"),
                BarColumn(),
                TaskProgressColumn(),
                TextColumn("{task.fields[pace]}"),
                console=console,
                transient=True,
            )
            self._task = self._bar.add_task("", total=None, pace="")

    def __enter__(self) -> None:
        if self._bar:
            self._bar.start()

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def __call__(self, stand: Stand) -> None:
        left = stand.remaining_s
        pace = f"{stand.rate:,.0f} events/s, {'?' if left is None else f'{left:.0f}'} s to go"
        if self._bar:
            self._bar.update(self._task, completed=stand.position, total=stand.target, pace=pace)
        elif stand.seconds >= self._next:
            self._next = stand.seconds + PLAIN_EVERY_S
            self._console.print(f"{stand.position:,} of {stand.target:,}: {pace}", highlight=False)


def _print(done: Rebuilt) -> None:
    console = Console()
    table = Table("table", "rows", "digest", "before", box=None)
    before = {digest.table: digest for digest in done.before}
    for new in done.after:
        old = before.get(new.table)
        verdict = "not compared" if old is None else "identical" if old == new else "different"
        was = f"{verdict}" if old is None or old == new else f"{verdict}: {old.rows:,} {old.digest}"
        table.add_row(new.table, f"{new.rows:,}", new.digest, was)
    console.print(table)
    console.print(
        f"{done.events:,} events in {done.seconds:.1f} s ({done.rate:,.0f}/s), "
        f"up to position {done.position:,}",
        highlight=False,
    )
