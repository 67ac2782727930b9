"""`agentos audit`: look at the audit, take it along, and prove that it is whole."""

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from agentos.cli import audit_tail
from agentos.cli.api_client import Url, connect
from agentos.cli.audit_options import Action, OfPrincipal, OfRun, OfTenant, Outcome
from agentos.cli.audit_source import BESIDE, chain_lines, keys_of, trusted, verify_file, verify_log
from agentos.cli.options import AsJson, DataDir
from agentos.cli.replay_sources import FAILED, USAGE, end, print_json, tenant_of, with_log
from agentos.cli.tables import show_table
from agentos.domain.audit.proof import fault_of, make_proof
from agentos.domain.audit.verification import export_line_of
from agentos.domain.ports import EventLog
from agentos.infra.settings import Settings
from agentos.infra.signing import is_signed

Output = Annotated[Path, typer.Option("-o", "--output", help="The file to write.")]
app = typer.Typer(
    add_completion=False, help="Look at the audit, export it, prove it.", no_args_is_help=True
)
EVERY = 100_000
audit_tail.register(app)


@app.command()
def query(  # noqa: PLR0917 - typer makes options of them
    tenant: OfTenant = None,
    action: Action = None,
    principal: OfPrincipal = None,
    outcome: Outcome = None,
    run: OfRun = None,
    after: Annotated[str | None, typer.Option("--after", help="RFC 3339.")] = None,
    before: Annotated[str | None, typer.Option("--before", help="RFC 3339.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=200)] = 50,
    url: Url = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Print a tenant's newest records, those that fit."""
    api = connect(url, data_dir)
    found = api.call(
        "GET", "/v1/audit", tenant_id=tenant, action=action, principal_id=principal,
        outcome=outcome, run_id=run, after=after, before=before, limit=limit,
    )  # fmt: skip
    if as_json:
        print_json(found)
        return
    columns = ("sequence", "time", "action", "resource", "outcome", "reason")
    rows = [[r.get(name) for name in columns] for r in found["records"]]
    show_table(
        (*columns, "principal"),
        [
            [*row, r["principal"]["principal_id"]]
            for row, r in zip(rows, found["records"], strict=True)
        ],
    )


@app.command()
def export(output: Output, tenant: OfTenant = None, data_dir: DataDir = None) -> None:
    """Write a chain as NDJSON, one record a line, and its checkpoints to FILE.checkpoints."""

    async def work(log: EventLog, settings: Settings) -> int:
        return await _export(log, tenant_of(settings, tenant), output)

    try:
        count = with_log(data_dir, work)
    except OSError as exc:
        end(f"{output} cannot be written: {exc}", FAILED)
    typer.echo(f"{count:,} records in {output}, checkpoints in {output}{BESIDE}", err=True)


async def _export(log: EventLog, tenant_id: str, output: Path) -> int:
    count = 0
    with output.open("wb") as records, Path(f"{output}{BESIDE}").open("wb") as beside:  # noqa: ASYNC230 - only this runs
        beside.write(_line({"tenant_id": tenant_id, "keys": await keys_of(log)}))
        async for is_record, line in chain_lines(log, tenant_id):
            if not is_record:
                beside.write(_line({"checkpoint": json.loads(line)["event"]["payload"]}))
                continue
            records.write(export_line_of(line) + b"\n")
            count += 1
            if count % EVERY == 0:
                typer.echo(f"{count:,} records", err=True)
    return count


def _line(content: dict[str, Any]) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode() + b"\n"


@app.command()
def verify(
    file: Annotated[Path | None, typer.Argument(help="An export; without it the log.")] = None,
    keys: Annotated[
        list[str] | None, typer.Option("--key", help="The only keys to trust (hex); repeatable.")
    ] = None,
    tenant: OfTenant = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Check every record and checkpoint of a chain; exits 1 when it does not hold.

    A file brings the keys that it is checked with: with --key only those count, and it exits 1
    when they signed nothing.
    """
    try:
        only = trusted(keys) if keys else None
    except ValueError as exc:
        end(f"--key: {exc}", USAGE)

    async def work(log: EventLog, settings: Settings) -> dict[str, Any]:
        return (await verify_log(log, tenant_of(settings, tenant), only)).view()

    try:
        found = with_log(data_dir, work) if file is None else verify_file(file, only).view()
    except (OSError, ValueError) as exc:
        end(f"{file} cannot be read: {exc}", USAGE)
    is_unsigned = only is not None and not found["keys"]
    if as_json:
        print_json(found)
    elif found["ok"]:
        typer.echo(
            f"{found['tenant_id']}: {found['records']:,} records hold, signed up to "
            f"record {found['signed_to']:,}"
            + (f" by {', '.join(found['keys'])}" if found["keys"] else "")
        )
    else:
        bad = found["first_bad"]
        which = f"record {bad['sequence']}" + (f" ({bad['audit_id']})" if bad["audit_id"] else "")
        typer.echo(f"{found['tenant_id']}: {which} is bad: {bad['reason']}")
    if found["ok"] and is_unsigned:
        end("nothing is signed by a key of --key", FAILED)
    if not found["ok"]:
        raise typer.Exit(FAILED)


@app.command()
def proof(audit_id: str, output: Output, tenant: OfTenant = None, data_dir: DataDir = None) -> None:
    """Write a proof that a record is in its chain; `verify-proof` checks it anywhere."""

    async def work(log: EventLog, settings: Settings) -> dict[str, Any] | None:
        return await _proof(log, tenant_of(settings, tenant), audit_id)

    found = with_log(data_dir, work)
    if found is None:
        end("no such record, or no checkpoint over it yet (60 seconds at most)", FAILED)
    output.write_text(json.dumps(found, indent=1) + os.linesep)


async def _proof(log: EventLog, tenant_id: str, audit_id: str) -> dict[str, Any] | None:
    """Return the proof of a record; only the records since the last checkpoint are held."""
    keys, since = await keys_of(log), list[dict[str, Any]]()
    async for is_record, line in chain_lines(log, tenant_id):
        said = json.loads(line)["event"]["payload"]
        if is_record:
            since.append(said)
            continue
        covered = [r for r in since if r["sequence"] <= said["sequence"]]
        for record in covered:
            if record["audit_id"] == audit_id:
                return make_proof(record, [r["hash"] for r in covered], said, keys[said["key_id"]])
        since = since[len(covered) :]
    return None


@app.command("verify-proof")
def verify_proof(
    file: Path,
    key: Annotated[str | None, typer.Option("--key", help="The only key to trust (hex).")] = None,
) -> None:
    """Check a proof offline; exits 1 when it does not hold."""
    try:
        fault = fault_of(json.loads(file.read_text()), is_signed, key)
    except (OSError, ValueError) as exc:
        end(f"{file} cannot be read: {exc}", USAGE)
    if fault is not None:
        end(f"the proof does not hold: {fault}", FAILED)
    typer.echo("the proof holds")


@app.command()
def key(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Print the public keys that this node's checkpoints are signed with."""

    async def work(log: EventLog, settings: Settings) -> dict[str, str]:
        return await keys_of(log)

    keys = with_log(data_dir, work)
    if as_json:
        print_json({"keys": keys})
        return
    for key_id, public_key in keys.items():
        typer.echo(f"{key_id}  {public_key}")
