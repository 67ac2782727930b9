"""`agentos log …`: the whole log as one file, and back."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import typer

from agentos.cli.api_client import FAILED, UNREACHABLE, WRONG_USAGE, end
from agentos.cli.options import AsJson, DataDir, node_settings
from agentos.cli.pasteable import pasteable
from agentos.cli.tables import show_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agentos.domain.ports import EventLog

T = TypeVar("T")
EVERY: Final = 20_000
app = typer.Typer(no_args_is_help=True)
File = Annotated[Path, typer.Argument(metavar="FILE", help="The archive.")]


def register(main: typer.Typer) -> None:
    """Add the commands of this file."""
    main.add_typer(app, name="log", help="Take the whole log out of a node, and into one.")


@app.command("export")
def export(
    out: Annotated[Path, typer.Option("-o", "--out", help="The file to write.")],
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Write the log to a file, while the node runs; broken off, the same command goes on."""
    from agentos.infra.archive import ArchiveWriter  # noqa: PLC0415 - heavy, as all below
    from agentos.infra.log_transfer import export_log, head_of  # noqa: PLC0415

    settings = node_settings(data_dir)

    async def work(log: "EventLog") -> dict[str, Any]:
        now = datetime.now(UTC).isoformat()
        about = await head_of(log, stack_id=settings.stack_id, created_at=now)
        writer = ArchiveWriter.open(out, about)
        try:
            resumed = writer.digest.records
            await export_log(log, writer, said("exported", quiet=as_json))
        finally:
            writer.close()
        return {
            "file": str(out),
            "records": writer.digest.records,
            "resumed_behind": resumed,
            "last_position": writer.last,
            "digest": writer.digest.value,
            "bytes": out.stat().st_size,
        }

    with told():
        show(_with_log(settings.runtime().nats_url, work), as_json=as_json)


@app.command("import")
def import_(file: File, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Fill the empty log of a node that is down; broken off, the same command goes on."""
    from agentos.infra.archive import ArchiveReader  # noqa: PLC0415
    from agentos.infra.jetstream.streams import provision  # noqa: PLC0415
    from agentos.infra.log_transfer import import_log, verify_archive  # noqa: PLC0415
    from agentos.infra.node.lone_broker import lone_broker  # noqa: PLC0415
    from agentos.infra.node.marker import update_marker  # noqa: PLC0415
    from agentos.infra.node.paths import NodePaths  # noqa: PLC0415

    settings = node_settings(data_dir)
    if settings.nats_url:
        end("log import fills the embedded broker; AGENTOS_NATS_URL names another", WRONG_USAGE)

    async def work(log: "EventLog") -> dict[str, Any]:
        reader = ArchiveReader(file)
        places = await import_log(log, reader, said("imported", quiet=as_json))
        return {"file": str(file), "records": places.count, "digest": reader.digest.value}

    with told():
        last = verify_archive(file).last  # nothing is begun with a file that is not whole
        with lone_broker(settings) as url:
            # Old positions lie before the new log's start: a cursor of before answers 410.
            asyncio.run(
                provision(url, durability=settings.durability, expect_log=False, start=last)
            )
            done = _with_log(url, work)
        update_marker(NodePaths(settings.data_dir), log_created=True)
        show(done, as_json=as_json)
    if not as_json:
        typer.echo(pasteable("next: agentos up"))


@app.command()
def verify(file: File, as_json: AsJson = False) -> None:
    """Prove that an archive is whole and undamaged; needs no node."""
    from agentos.infra.log_transfer import verify_archive  # noqa: PLC0415

    with told():
        reader = verify_archive(file)
        show(
            {
                "file": str(file),
                "ok": True,
                "records": reader.digest.records,
                "chunks": reader.number,
                "digest": reader.digest.value,
                **reader.about,
            },
            as_json=as_json,
        )


@app.command()
def digest(
    file: Annotated[Path | None, typer.Argument(metavar="FILE", help="An archive.")] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Print the digest of the log's content, or of an archive's: equal when the content is."""
    from agentos.infra.log_transfer import content_digest, digest_log  # noqa: PLC0415

    async def work(log: "EventLog") -> dict[str, Any]:
        found = await digest_log(log)
        return {"records": found.records, "content_digest": found.value}

    with told():
        if file is not None:
            show({"file": str(file), "content_digest": content_digest(file)}, as_json=as_json)
        else:
            url = node_settings(data_dir).runtime().nats_url
            show(_with_log(url, work), as_json=as_json)


def _with_log(url: str, work: "Callable[[EventLog], Awaitable[T]]") -> T:
    from agentos.infra.jetstream.connection import bounded_close, connect  # noqa: PLC0415
    from agentos.infra.jetstream.log import JetStreamLog  # noqa: PLC0415
    from agentos.infra.jetstream.signals import NatsSignals  # noqa: PLC0415
    from agentos.infra.whole_read import whole_read  # noqa: PLC0415

    async def connected() -> T:
        connection = await connect(url, "agentos-log")
        try:
            async with whole_read(NatsSignals(connection)):
                return await work(JetStreamLog(connection))
        finally:
            await bounded_close(connection)

    return asyncio.run(connected())


@contextmanager
def told() -> "Iterator[None]":
    """End the command with the contract's exit code for what goes wrong inside."""
    from agentos.domain.archive import ArchiveError  # noqa: PLC0415
    from agentos.domain.errors import DependencyUnavailableError  # noqa: PLC0415

    try:
        yield
    except DependencyUnavailableError as error:
        end(f"error: {error.message}\nstart the node: agentos up", UNREACHABLE)
    except ArchiveError as error:
        end(f"error: {error}", FAILED)
    except FileNotFoundError as error:
        end(f"error: no such file: {error.filename}", WRONG_USAGE)
    except OSError as error:
        end(f"error: {error}", FAILED)


def said(what: str, *, quiet: bool) -> Callable[[int, int], None]:
    last = 0

    def report(position: int, head: int) -> None:
        nonlocal last
        if quiet or position - last < EVERY:
            return
        last = position
        of = f" of {head:,}" if head > position else ""
        sys.stderr.write(f"{what} {position:,}{of}\n")

    return report


def show(content: dict[str, Any], *, as_json: bool) -> None:
    from agentos.cli.tables import show_lines  # noqa: PLC0415

    show_json(content) if as_json else show_lines(content)
