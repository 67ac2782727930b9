"""`agentos state`: an aggregate as it was at a time or a sequence, and who changed it."""

from typing import Annotated, Any, Final

import typer

from agentos.cli.options import AsJson, DataDir
from agentos.cli.replay_sources import (
    USAGE,
    end,
    print_json,
    require_not_gone,
    tenant_of,
    with_log,
)
from agentos.cli.tables import show_lines
from agentos.domain.errors import NotFoundError
from agentos.domain.ids import is_named_id
from agentos.domain.ports import EventLog
from agentos.domain.replay.as_of import Until, as_of
from agentos.domain.subjects import SINGLETONS, StreamRef
from agentos.domain.times import rfc3339, to_ms
from agentos.infra.settings import Settings

KINDS: Final = ("run", "tenant", "agent", "quota")
QUOTAS: Final = ("runs", "models", "tools", "storage")
Kind = Annotated[str, typer.Argument(metavar="run|tenant|agent|quota", help="What it is.")]
Id = Annotated[str, typer.Argument(metavar="ID", help="Its id; a quota: runs, models …")]
At = Annotated[str | None, typer.Option(help="A time (RFC 3339) or a sequence; now without.")]
Tenant = Annotated[str | None, typer.Option(help="Its tenant; the default one without.")]
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def state(
    kind: Kind,
    id_: Id,
    at: At = None,
    tenant: Tenant = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Print a run, tenant, agent or quota as it was, and who changed it last."""
    until = until_of(at)
    found = with_log(data_dir, lambda log, settings: _read(log, settings, kind, id_, tenant, until))
    if as_json:
        print_json(found)
        return
    by = found["changed_by"]
    principal = by["principal"]
    worker = f" ({principal['worker_id']})" if "worker_id" in principal else ""
    lines = {
        "at": found["at"],
        "sequence": found["sequence"],
        "changed by": f"{principal['principal_id']}{worker}, {by['time']}",
        "with": f"{by['type']} {by['event_id']}",
    }
    show_lines(lines)
    typer.echo()
    show_lines(found["state"])


def until_of(at: str | None) -> Until:
    """Return the point that `--at` names; ends the command for what is neither."""
    if at is None:
        return Until()
    if at.isascii() and at.isdecimal():
        return Until(sequence=int(at))
    try:
        time_ms = to_ms(at)
        rfc3339(time_ms)
    except (ValueError, OverflowError, OSError) as exc:
        end(f"--at {at}: neither a sequence nor a time such as 2026-11-21T10:15:36Z: {exc}", USAGE)
    return Until(time_ms=time_ms)


async def _read(
    log: EventLog, settings: Settings, kind: str, id_: str, tenant: str | None, until: Until
) -> dict[str, Any]:
    ref = ref_of(kind, id_, tenant, settings)
    records = await log.read(ref)
    if not records:
        await require_not_gone(log, ref)
    return as_of(ref, records, until)


def ref_of(kind: str, id_: str, tenant: str | None, settings: Settings) -> StreamRef:
    """Return the stream that kind and id name; ends the command, or `NotFoundError`."""
    if kind not in KINDS:
        end(f"{kind}: it is one of {', '.join(KINDS)}", USAGE)
    if kind == "tenant" or (kind == "quota" and id_.startswith("tnt_")):
        tenant_id, id_ = id_, (id_ if kind == "tenant" else "runs")
    else:
        tenant_id = tenant_of(settings, tenant)
    if kind == "quota" and id_ not in QUOTAS:
        end(f"{id_}: a quota is one of {', '.join(QUOTAS)}", USAGE)
    if not is_named_id(tenant_id, "tnt") or not (id_ in SINGLETONS or is_named_id(id_)):
        raise NotFoundError(f"there is no such {kind}")
    return StreamRef(tenant_id, kind, id_)
