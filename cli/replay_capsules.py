"""`agentos replay export`, `import` and `check`: incident capsules, and runs as tests."""

import filecmp
import os
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from agentos.cli.options import AsJson, DataDir, node_settings
from agentos.cli.replay_agents import Agents
from agentos.cli.replay_export import Chosen, export_runs
from agentos.cli.replay_files import SUFFIX, folder_of, recorded_runs, verified
from agentos.cli.replay_redactor import default_redactor
from agentos.cli.replay_run import replay
from agentos.cli.replay_sources import FAILED, USAGE, end, print_json, tenant_of, with_log
from agentos.cli.tables import show_lines
from agentos.domain.ports import EventLog
from agentos.domain.replay.capsule import CapsuleError
from agentos.domain.times import rfc3339, to_ms
from agentos.infra.capsules.keys import fingerprint, known_key, node_signer
from agentos.infra.capsules.reader import verify
from agentos.infra.capsules.writer import CapsuleWriter
from agentos.infra.clock import SystemClock, SystemIds
from agentos.infra.settings import Settings

SHOWN: Final = 50
RunArgument = Annotated[str | None, typer.Argument(metavar="[RUN]", help="The run's id.")]
Between = Annotated[
    tuple[str, str] | None, typer.Option(metavar="A B", help="All runs between two times.")
]
Out = Annotated[Path, typer.Option("-o", "--out", help="The file to write.")]
Tenant = Annotated[str | None, typer.Option(help="The tenant; the default one without.")]
Raw = Annotated[bool, typer.Option("--raw", help="Do not redact: whoever has the file reads all.")]
Trust = Annotated[str | None, typer.Option(help="Take it only if this signer's fingerprint fits.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("export")(export)
    app.command("import")(import_)
    app.command("check")(check)


def export(  # noqa: PLR0917 - a command has the options it has
    out: Out,
    run_id: RunArgument = None,
    between: Between = None,
    tenant: Tenant = None,
    raw: Raw = False,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Write a capsule: runs in one file, redacted and signed, for another machine to replay."""
    chosen = _chosen(run_id, between)
    if not out.parent.is_dir():
        end(f"--out {out}: there is no such folder", USAGE)
    redactor = None if raw else default_redactor()

    async def work(log: EventLog, settings: Settings) -> dict[str, Any]:
        signer = node_signer(settings.data_dir)
        about = {
            "capsule_id": SystemIds()("cap"),
            "created_at": rfc3339(SystemClock().now_ms()),
            "node": settings.stack_id,
            "agentos_version": version("agentos"),
            "redacted_by": redactor.name if redactor else None,
        }
        with CapsuleWriter(out, signer, about) as writer:
            tenant_id = tenant_of(settings, tenant)
            redact = redactor.redact if redactor else None
            await export_runs(log, tenant_id, chosen, writer, redact)
        return {
            "capsule_id": about["capsule_id"],
            "file": str(out),
            "runs": writer.runs,
            "events": writer.events,
            "bytes": out.stat().st_size,
            "redacted_by": about["redacted_by"],
            "signer": fingerprint(signer.public_key),
        }

    try:
        _print(with_log(data_dir, work), as_json=as_json)
    except OSError as exc:
        end(f"error: {out} cannot be written: {exc.strerror}", FAILED)


def _chosen(run_id: str | None, between: tuple[str, str] | None) -> Chosen:
    if (run_id is None) is (between is None):
        end("either RUN or --between A B", USAGE)
    if between is None:
        return Chosen(run_id=run_id)
    try:
        first, last = (rfc3339(to_ms(text)) for text in between)
    except (ValueError, OverflowError, OSError) as exc:
        end(f"--between: no time such as 2026-11-21T10:15:36Z: {exc}", USAGE)
    if first > last:
        end("--between A B: A comes first", USAGE)
    return Chosen(between=(first, last))


def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The capsule.")],
    trust: Trust = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Verify a capsule and keep it here: `replay run --capsule ID` needs no node."""
    manifest = verified(file)
    signer = fingerprint(manifest.public_key)
    if trust is not None and trust != signer:
        end(f"error: it was signed by {signer}, not by {trust}", FAILED)
    runs = [(run.ref.tenant_id, run.ref.aggregate_id) for run in recorded_runs(file)]
    if len(runs) != manifest.runs:
        end("error: it does not hold the runs that its manifest says", FAILED)
    place = folder_of(data_dir) / f"{manifest.capsule_id}{SUFFIX}"
    _keep(file, place)
    known = manifest.public_key == known_key(node_settings(data_dir).data_dir)
    found = {
        "capsule_id": manifest.capsule_id,
        "file": str(place),
        "created_at": manifest.created_at,
        "node": manifest.node,
        "agentos_version": manifest.agentos_version,
        "redacted_by": manifest.redacted_by,
        "signer": signer,
        "signer_known": known or trust is not None,
        "runs": [{"tenant_id": tenant, "run_id": run} for tenant, run in runs],
    }
    if as_json:
        print_json(found)
        return
    show_lines({**found, "runs": len(runs)})
    for tenant, run in runs[:SHOWN]:
        typer.echo(f"  {tenant}  {run}")
    if not found["signer_known"]:
        typer.echo(
            "the signature holds; whose key it is, the sender can tell: see --trust", err=True
        )


def _keep(file: Path, place: Path) -> None:
    """Put a copy in its place: whole, or not at all, and never in that of another capsule."""
    beside = place.with_name(f".{place.name}.{os.getpid()}")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with file.open("rb") as source, beside.open("wb") as target:
            while piece := source.read(1 << 20):
                target.write(piece)
        with suppress(FileExistsError):
            os.link(beside, place)
        is_same = filecmp.cmp(beside, place, shallow=False)
        beside.unlink()
    except OSError as exc:
        beside.unlink(missing_ok=True)
        end(f"error: {place} cannot be written: {exc.strerror}", FAILED)
    if not is_same:
        end(f"error: {place} is another capsule of this id; it stays as it is", FAILED)


def check(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of capsules.")],
    agents: Annotated[
        Path | None, typer.Option(help="Definitions to try instead, as <agent_id>.json.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Replay every run of a folder of capsules with this version; exit 1 on a difference."""
    if not folder.is_dir():
        end(f"{folder}: there is no such folder", USAGE)
    tried = Agents.load(agents)
    found: dict[str, Any] = {"capsules": 0, "runs": 0, "events": 0, "equal": 0, "differences": []}
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        found["capsules"] += 1
        _check_file(path, tried, found)
    if not found["runs"] and not found["differences"]:
        end(f"{folder}: there is no run in it (files are called <name>{SUFFIX})", USAGE)
    found["ok"] = not found["differences"]
    if as_json:
        print_json(found)
    else:
        _report(found)
    if not found["ok"]:
        raise typer.Exit(FAILED)


def _check_file(path: Path, tried: Agents, found: dict[str, Any]) -> None:
    try:
        verify(path)
    except CapsuleError as exc:
        found["differences"].append({"capsule": path.name, "run_id": None, "error": str(exc)})
        return
    for run in recorded_runs(path):
        result = replay(tried.instead(run))
        found["runs"] += 1
        found["events"] += result.events
        found["equal"] += result.equal
        if (different := result.first_difference) is not None:
            found["differences"].append(
                {
                    "capsule": path.name,
                    "run_id": result.run_id,
                    "first_difference": different.to_json(),
                }
            )


def _report(found: dict[str, Any]) -> None:
    console = Console()
    console.print(
        f"{found['runs']} runs in {found['capsules']} capsules, {found['events']:,} events: "
        f"{found['equal']} equal, {len(found['differences'])} different",
        highlight=False,
    )
    if not found["differences"]:
        return
    table = Table("capsule", "run", "event", "field", "log", "replay", "why", box=None)
    for row in found["differences"][:SHOWN]:
        different = row.get("first_difference") or {"reason": row.get("error")}
        event = f"{different.get('sequence', '-')} {different.get('type', '')}".strip()
        cells = [row["capsule"], row["run_id"], event]
        cells += [different.get(name) for name in ("field", "recorded", "recomputed", "reason")]
        table.add_row(*(escape(str(cell)) if cell else "-" for cell in cells))
    console.print(table)


def _print(found: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(found)
    else:
        show_lines(found)
