"""`agentos replay run`: decide a recorded run again, step through it, or fork it."""

from pathlib import Path
from typing import Annotated

import typer

from agentos.cli.api_client import Url, connect, part
from agentos.cli.options import AsJson, DataDir
from agentos.cli.replay_files import run_in_capsule
from agentos.cli.replay_sources import (
    FAILED,
    USAGE,
    RecordedRun,
    end,
    print_json,
    read_run,
    tenant_of,
    with_log,
)
from agentos.domain.ports import EventLog
from agentos.domain.replay.copied import replayed_copy
from agentos.domain.replay.replay import Replay, Replayed
from agentos.infra.settings import Settings

RunArgument = Annotated[str | None, typer.Argument(metavar="RUN", help="The run's id.")]
Capsule = Annotated[str | None, typer.Option(help="A capsule: a file, or the id of an import.")]
Tenant = Annotated[str | None, typer.Option(help="Its tenant; the default one without.")]
Step = Annotated[bool, typer.Option("--step", help="Walk through it, event by event.")]
At = Annotated[int | None, typer.Option("--at", min=1, help="With --step: this event only.")]
From = Annotated[int | None, typer.Option("--from", min=1, help="With --fork: its first step.")]
Fork = Annotated[bool, typer.Option("--fork", help="Start a new run with this one's past.")]
Key = Annotated[str | None, typer.Option("--key", help="With --fork: an idempotency key.")]


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command("run")(run)


def run(  # noqa: PLR0917 - a command has the options it has
    run_id: RunArgument = None,
    tenant: Tenant = None,
    capsule: Capsule = None,
    step: Step = False,
    at: At = None,
    from_step: From = None,
    fork: Fork = False,
    key: Key = None,
    url: Url = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Decide a recorded run again, from its log alone; exit 1 when it comes out different.

    Nothing is called: no network, model, tool or clock. --step walks through the run,
    --from N --fork starts a new run that begins with this one's first N - 1 steps.
    """
    if fork or from_step is not None:
        if not fork or from_step is None or step or at is not None or capsule or not run_id:
            end("RUN, --from N and --fork go together, and alone", USAGE)
        _fork(run_id, from_step, key, url=url, tenant=tenant, data_dir=data_dir, as_json=as_json)
        return
    found = read(run_id, tenant, capsule, data_dir)
    if step or at is not None:
        from agentos.cli.replay_step import walk  # noqa: PLC0415 - only when it is asked for

        walk(found, at, as_json=as_json)
        return
    result = replay(found)
    if as_json:
        original = {"original_digest": found.original_digest} if capsule else {}
        copied = {"copied_from": found.copied_from} if found.copied_from else {}
        print_json(result.to_json() | original | copied)
    else:
        if found.copied_from:
            typer.echo(f"copied    from {found.copied_from}; the agent's versions are this node's")
        show(result)
    if not result.equal:
        raise typer.Exit(FAILED)


def read(
    run_id: str | None, tenant: str | None, capsule: str | None, data_dir: Path | None
) -> RecordedRun:
    """Return a run from a capsule, or from the node's log."""
    if capsule is not None:
        return run_in_capsule(capsule, run_id, tenant, data_dir)
    if run_id is None:
        end("which run? give its id, or --capsule FILE", USAGE)

    async def work(log: EventLog, settings: Settings) -> RecordedRun:
        return await read_run(log, tenant_of(settings, tenant), run_id)

    return with_log(data_dir, work)


def replay(found: RecordedRun) -> Replayed:
    """Decide a run again."""
    if found.copied_from:
        return replayed_copy(found.ref, found.definition, found.records).result()
    return Replay(found.ref, found.definition).feed(found.records).result(found.recorded_digest)


def show(result: Replayed) -> None:
    """Print a result for people."""
    typer.echo(f"run       {result.run_id}")
    typer.echo(f"events    {result.events}")
    typer.echo(f"digest    {result.digest}")
    typer.echo(f"recorded  {result.recorded_digest or 'none: no audit record of its end'}")
    for note in result.notes:
        typer.echo(f"note      {note}")
    found = result.first_difference
    if found is None and result.erased:
        typer.echo("erased    yes: the content is gone, so nothing could be decided again")
        held = "the recorded one" if result.recorded_digest else "not recorded"
        typer.echo(f"equal     no; the digest over the lines is {held}")
        return
    if found is None:
        typer.echo("equal     yes: every line was decided again, byte for byte")
        return
    typer.echo("equal     no")
    where = f"event {found.sequence} {found.type}".rstrip() if found.sequence else "the whole"
    typer.echo(f"first     {where}: {found.reason}")
    for name, value in (
        ("field", found.field),
        ("log", found.recorded),
        ("replay", found.recomputed),
    ):
        if value is not None:
            typer.echo(f"{name:<8}  {value}")


def _fork(
    run_id: str,
    from_step: int,
    key: str | None,
    *,
    url: str | None,
    tenant: str | None,
    data_dir: Path | None,
    as_json: bool,
) -> None:
    api = connect(url, data_dir, tenant=tenant)
    answer = api.call(
        "POST", f"/v1/runs/{part(run_id)}:fork", {"from_step": from_step}, idempotency_key=key
    )
    if as_json:
        print_json(answer)
        return
    run = answer["run"]
    typer.echo(f"run       {run['run_id']}")
    typer.echo(f"status    {run['status']}")
    typer.echo(f"fork of   {run_id}, from step {from_step}")
