"""`agentos replay policy`: what a policy, prices, routes or quotas would have done."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from pydantic_core import from_json

from agentos.cli.moments import since_ms
from agentos.cli.options import AsJson, DataDir
from agentos.cli.replay_bodies import RecordedBodies
from agentos.cli.replay_sources import (
    USAGE,
    end,
    note_missing,
    print_json,
    whole_log,
    with_connection,
)
from agentos.cli.tables import show_table
from agentos.domain.ids import is_named_id
from agentos.domain.ports import EventLog
from agentos.domain.replay.proposal import Proposal, ProposalError, read_proposal
from agentos.domain.replay.traffic import Traffic
from agentos.domain.replay.whatif import Tally, WhatIf
from agentos.domain.run.run import Run
from agentos.domain.times import rfc3339
from agentos.domain.usage.usage import Usage
from agentos.infra.jetstream.call_bodies import JetStreamCallBodies
from agentos.infra.jetstream.connection import Connection
from agentos.infra.names import installed_names
from agentos.infra.privacy.build import content_keys
from agentos.infra.privacy.sealed_log import SealedLog
from agentos.infra.settings import Settings

KINDS: Final = frozenset({Run.KIND, Usage.KIND})
SHOWN: Final = 20
File = Annotated[Path, typer.Argument(metavar="FILE", help="A policy, catalog or quotas (JSON).")]
Since = Annotated[str, typer.Option(help="How long back: 30m, 7d, or a time.")]
Tenant = Annotated[str | None, typer.Option(help="One tenant; all without.")]


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command("policy")(policy)


def policy(
    file: File,
    since: Since = "7d",
    tenant: Tenant = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Tell what a policy, price table, route or quota would have done to recorded calls.

    Nothing is changed. Calls of runs are looked at again in their messages, and so are direct
    calls whose tenant keeps bodies; the others by what was found in them when they were made.
    """
    proposal = _proposal(file)
    after = since_ms(since)
    if tenant is not None and not is_named_id(tenant, "tnt"):
        end(f"--tenant {tenant}: no tenant's id", USAGE)
    began = time.monotonic()

    async def work(connection: Connection, settings: Settings) -> tuple[Tally, dict[str, Tally]]:
        keys = content_keys(settings, connection)
        log = SealedLog(await whole_log(connection, settings), keys)
        bodies = RecordedBodies(JetStreamCallBodies(connection), keys)
        return await judge_all(log, proposal, after, tenant, bodies)

    total, tenants = with_connection(data_dir, work)
    seconds = time.monotonic() - began
    found = {
        **total.to_json(),
        "since": rfc3339(after),
        "seconds": round(seconds, 3),
        "tenants": [
            {"tenant_id": name, **{k: v for k, v in tally.to_json().items() if k != "changes"}}
            for name, tally in sorted(tenants.items())
        ],
    }
    if as_json:
        print_json(found)
    else:
        _show(found)


def _proposal(file: Path) -> Proposal:
    try:
        return read_proposal(from_json(file.read_bytes()), installed_names())
    except (OSError, ValueError, ProposalError) as exc:
        end(f"{file}: {exc}", USAGE)


async def judge_all(
    log: EventLog,
    proposal: Proposal,
    since: int,
    tenant: str | None,
    bodies: RecordedBodies | None = None,
) -> tuple[Tally, dict[str, Tally]]:
    """Return the counts of all calls since a time, and by tenant; memory stays as it is."""
    note_missing(log)
    traffic, what_if = Traffic(), WhatIf(proposal)
    total, tenants = Tally(), defaultdict[str, Tally](Tally)
    # All kinds: what is passed by costs less here than two filters cost the broker.
    tail = log.tail(after=0, tenant_id=tenant)
    async with aclosing(tail):  # type: ignore[type-var]  # an async generator
        async for batch in tail:
            for record in batch.records:
                for call in traffic.feed(record) if record.ref.kind in KINDS else ():
                    if call.time_ms >= since:
                        known = call if bodies is None else await bodies.with_body(call)
                        judged = what_if.judge(known)
                        total.add(judged)
                        tenants[call.tenant_id].add(judged)
            if batch.caught_up:
                break
    return total, tenants


def _show(found: dict[str, Any]) -> None:
    names = ("decisions", "changed", "would_block", "would_redact", "cost_delta_usd")
    rows = [(row["tenant_id"], *(row[name] for name in names)) for row in found["tenants"]]
    rows.append(("all", *(found[name] for name in names)))
    show_table(("tenant", *(name.replace("_", " ") for name in names)), rows)
    judged = ", ".join(f"{count} {name}" for name, count in found["judged_from"].items() if count)
    typer.echo(f"judged from: {judged or 'no calls'}")
    shown = list(_changes(found["changes"][:SHOWN]))
    if shown:
        typer.echo()
        show_table(("tenant", "run or request", "was", "would", "model", "cost", "why"), shown)
    if found["changed"] > len(shown):
        typer.echo(f"{found['changed'] - len(shown)} more; --json has the first thousand")


def _changes(changes: list[dict[str, Any]]) -> Iterator[tuple[Any, ...]]:
    for change in changes:
        moved = change["model_was"] != change["model_would"]
        model = f"{change['model_was']} -> {change['model_would']}" if moved else ""
        yield (
            change["tenant_id"],
            change["run_id"] or change["request_id"],
            change["was"],
            change["would"],
            model,
            f"{change['cost_delta_usd']:+.6f}",
            ", ".join(change["reasons"]),
        )
