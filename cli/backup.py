"""`agentos backup` and `agentos restore`: a whole node, and back."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from agentos.cli.api_client import FAILED, WRONG_USAGE, end
from agentos.cli.log import said, show, told
from agentos.cli.options import AsJson, DataDir, node_settings
from agentos.cli.pasteable import pasteable
from agentos.infra.node.marker import read_marker, update_marker
from agentos.infra.node.paths import NodePaths

if TYPE_CHECKING:
    from agentos.infra.jetstream.connection import Connection

T = TypeVar("T")
Secrets = Annotated[
    bool, typer.Option("--with-secrets/--without-secrets", help="Keep the node's keys too.")
]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command()(backup)
    app.command()(restore)


def backup(
    out: Annotated[Path, typer.Option("-o", "--out", help="The directory to write.")],
    with_secrets: Secrets = True,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Write a backup of the node while it runs: its log, its buckets and its secrets."""
    from agentos.infra.node.backup import BackupError, make_backup  # noqa: PLC0415 - heavy
    from agentos.infra.retention import archive_directory  # noqa: PLC0415

    settings = node_settings(data_dir)

    async def work(connection: "Connection") -> dict[str, Any]:
        report = said("kept", quiet=as_json)
        return await make_backup(
            connection,
            settings.data_dir,
            out,
            with_secrets=with_secrets,
            report=report,
            archives=archive_directory(settings),
        )

    with told():
        try:
            done = _connected(settings.runtime().nats_url, work)
        except BackupError as error:
            end(f"error: {error}", FAILED)
        show({"directory": str(out), **done}, as_json=as_json)


def restore(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The backup.")],
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Fill a new data directory from a backup; the node is down meanwhile."""
    from agentos.infra.jetstream.streams import provision  # noqa: PLC0415 - heavy, as below
    from agentos.infra.node.backup import (  # noqa: PLC0415
        BackupError,
        bring_back_archives,
        bring_back_secrets,
        fill_from,
        verify_backup,
    )
    from agentos.infra.node.lone_broker import lone_broker  # noqa: PLC0415
    from agentos.infra.retention import archive_directory  # noqa: PLC0415

    settings = node_settings(data_dir)
    paths = NodePaths(settings.data_dir)
    if settings.nats_url:
        end("restore fills the embedded broker; AGENTOS_NATS_URL names another", WRONG_USAGE)
    if read_marker(paths).get("log_created"):
        end(f"{paths.data} holds a node already; name another --data-dir", FAILED)
    with told():
        try:
            content = verify_backup(directory)  # nothing is begun with a backup that is not whole
        except BackupError as error:
            end(f"error: {error}", FAILED)
        with lone_broker(settings) as url:
            start = content["last_position"]
            asyncio.run(
                provision(url, durability=settings.durability, expect_log=False, start=start)
            )
            report = said("restored", quiet=as_json)
            _connected(url, lambda connection: fill_from(connection, directory, report))
        secrets = bring_back_secrets(directory, paths.data)
        archives = bring_back_archives(directory, archive_directory(settings))
        update_marker(paths, log_created=True)
        done = {
            "data_dir": str(paths.data),
            "records": content["records"],
            "log_digest": content["log_digest"],
            "secrets": secrets,
            "archives": archives,
        }
        show(done, as_json=as_json)
    if not as_json:
        typer.echo(pasteable("next: agentos up"))


def _connected(url: str, work: "Callable[[Connection], Awaitable[T]]") -> T:
    from agentos.infra.jetstream.connection import bounded_close, connect  # noqa: PLC0415

    async def connected() -> T:
        connection = await connect(url, "agentos-backup")
        try:
            return await work(connection)
        finally:
            await bounded_close(connection)

    return asyncio.run(connected())
