"""Where recorded runs come from: a node's log, or a capsule."""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar

import orjson
import typer

from agentos.cli.options import node_settings
from agentos.cli.pasteable import pasteable
from agentos.domain.agent.agent import Agent, Definition, agent_ref
from agentos.domain.aggregate import FoldError, read_event
from agentos.domain.archive import ArchiveError
from agentos.domain.audit.chain import AuditChain, AuditRecorded
from agentos.domain.errors import (
    AgentOSError,
    CursorExpiredError,
    DependencyUnavailableError,
    NotFoundError,
)
from agentos.domain.federation.remote import RemoteRun, remote_ref
from agentos.domain.ids import is_named_id
from agentos.domain.log import Recorded
from agentos.domain.ports import EventLog
from agentos.domain.replay.copied import copied_run
from agentos.domain.run.events import FINAL_TYPES
from agentos.domain.run.run import Run, run_ref
from agentos.domain.subjects import StreamRef
from agentos.handlers.retention.report import plan_of
from agentos.infra.archived_log import ArchivedLog
from agentos.infra.jetstream.connection import Connection, bounded_close, connect
from agentos.infra.privacy.build import content_keys
from agentos.infra.privacy.sealed_log import SealedLog
from agentos.infra.retention import archive_directory
from agentos.infra.settings import NodeNotStartedError, Settings, SettingsError

T = TypeVar("T")
FAILED: Final = 1
USAGE: Final = 2
UNREACHABLE: Final = 3
CONNECT_TIMEOUT_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class RecordedRun:
    """A run as it was recorded, with its agent's versions and its audited digest, if any."""

    ref: StreamRef
    records: Sequence[Recorded]
    definitions: Mapping[str, Definition]
    recorded_digest: str | None = None
    original_digest: str | None = None
    copied_from: str | None = None

    def definition(self, version: str) -> Definition:
        """Return a version of the run's agent; `NotFoundError` where it is not known."""
        found = self.definitions.get(version)
        if found is None:
            raise NotFoundError(f"the agent's version {version!r} is not known")
        return found


def with_log(data_dir: Path | None, work: Callable[[EventLog, Settings], Awaitable[T]]) -> T:
    """Do some work on the node's log; ends the command where there is none, or it fails.

    Whoever is on the node's machine reads what is sealed, as long as the key is there.
    """

    async def on(connection: Connection, settings: Settings) -> T:
        log = await whole_log(connection, settings)
        return await work(SealedLog(log, content_keys(settings, connection)), settings)

    return with_connection(data_dir, on)


def with_connection(
    data_dir: Path | None, work: Callable[[Connection, Settings], Awaitable[T]]
) -> T:
    """Do some work on a connection to the node's broker; ends the command as `with_log` does."""
    try:
        settings = node_settings(data_dir)
        return asyncio.run(_connected(settings, work))
    except (NodeNotStartedError, DependencyUnavailableError, TimeoutError) as exc:
        end(f"{exc}\nthe node must run: start it with `agentos up`", UNREACHABLE)
    except SettingsError as exc:
        end(str(exc), USAGE)
    except AgentOSError as exc:
        end(f"error: {exc.code}: {exc.message}", FAILED)
    except ArchiveError as exc:
        end(f"error: {exc}", FAILED)
    except FoldError as exc:
        end(f"error: the log does not fold: {exc}", FAILED)


async def _connected(settings: Settings, work: Callable[[Connection, Settings], Awaitable[T]]) -> T:
    url = settings.runtime().nats_url
    connection = await connect(url, "agentos-replay", timeout=CONNECT_TIMEOUT_S)
    try:
        return await work(connection, settings)
    finally:
        await bounded_close(connection)


async def whole_log(connection: Connection, settings: Settings) -> ArchivedLog:
    """Return the log as it stands, with what retention let go where its archives are."""
    log = ArchivedLog(connection, archive_directory(settings), _from_archive)
    await log.open()
    return log


def _from_archive(name: str) -> None:
    typer.echo(f"retention let go of it; read from the archive {name}", err=True)


def note_missing(log: EventLog) -> None:
    """Say on standard error what of the log's past is not to be had any more."""
    stored = log.stored if isinstance(log, SealedLog) else log
    for missing in stored.missing[:10] if isinstance(stored, ArchivedLog) else ():
        typer.echo(f"not looked at: {missing}", err=True)


async def read_run(log: EventLog, tenant_id: str, run_id: str) -> RecordedRun:
    """Return a run with all that a replay of it needs; `NotFoundError` where there is none.

    A run that a peer executes is read from its copy, with this node's versions of the agent.
    """
    ref = run_ref(tenant_id, run_id)
    if not is_named_id(tenant_id, "tnt") or not is_named_id(run_id):
        raise NotFoundError("no such run")
    records = await log.read(ref)
    if not records or not records[0].lines():
        await require_not_gone(log, ref)
        return await _read_copy(log, tenant_id, run_id)
    definitions = await read_definitions(log, tenant_id, agent_of(records))
    return RecordedRun(ref, records, definitions, await audited_digest(log, ref, records[-1]))


async def _read_copy(log: EventLog, tenant_id: str, run_id: str) -> RecordedRun:
    ref = remote_ref(tenant_id, run_id)
    found = await log.read(ref)
    remote = RemoteRun(ref).fold(found)
    if remote.view_state is None or not (records := copied_run(remote, found)):
        await require_not_gone(log, ref)
        raise NotFoundError(f"{tenant_id} has no run {run_id}")
    records = [replace(record, readable=remote.is_readable) for record in records]
    definitions = await read_definitions(log, tenant_id, agent_of(records))
    stack_id = remote.linked.stack_id
    return RecordedRun(run_ref(tenant_id, run_id), records, definitions, copied_from=stack_id)


async def require_not_gone(log: EventLog, ref: StreamRef) -> None:
    """Raise `CursorExpiredError` for what retention let go; it names the archive."""
    plan = await plan_of(log, ref)
    if plan is None:
        return
    where = f"it is in the archive {plan.archive.name}" if plan.archive else "no archive has it"
    raise CursorExpiredError(
        f"retention let go of {ref.aggregate_id}, which had ended by {plan.before}; {where}"
    )


def agent_of(records: Sequence[Recorded]) -> str:
    """Return the agent that a run is of, as its first line says."""
    try:
        return read_event(records[0].lines()[0], Run.PAYLOADS).agent_id or ""
    except (FoldError, KeyError, TypeError, ValueError):
        return ""  # the replay will say what is wrong with the line


async def read_definitions(
    log: EventLog, tenant_id: str, agent_id: str
) -> Mapping[str, Definition]:
    """Return all versions of an agent."""
    if not is_named_id(agent_id):
        return {}
    ref = agent_ref(tenant_id, agent_id)
    return Agent(ref).fold(await log.read(ref)).versions


async def audited_digest(log: EventLog, ref: StreamRef, last: Recorded) -> str | None:
    """Return the digest in the audit record of a run's end; it stands behind it in the log."""
    if not last.types or last.types[-1] not in FINAL_TYPES:
        return None
    cause = read_event(last.lines()[-1], Run.PAYLOADS).event_id
    needle = f'"cause":"{cause}"'.encode()
    tail = log.tail(after=last.position, kinds=(AuditChain.KIND,), tenant_id=ref.tenant_id)
    async with aclosing(tail):  # type: ignore[type-var]  # an async generator
        async for batch in tail:
            for record in batch.records:
                if needle in record.body and (found := _digest_in(record, cause)):
                    return found
            if batch.caught_up:
                return None
    return None


def _digest_in(record: Recorded, cause: str) -> str | None:
    for line in record.lines():
        said = read_event(line, AuditChain.PAYLOADS).payload
        if isinstance(said, AuditRecorded) and said.cause == cause:
            digest = said.meta.get("digest")
            return digest if isinstance(digest, str) else None
    return None


def tenant_of(settings: Settings, tenant: str | None) -> str:
    """Return the tenant that a command is about; ends it where none is given or set."""
    found = tenant or settings.default_tenant
    if not found:
        end("--tenant is needed: this node has no default tenant", USAGE)
    return found


def print_json(content: Any) -> None:
    """Print one JSON object on a line of its own."""
    sys.stdout.write(orjson.dumps(content).decode() + os.linesep)


def end(text: str, code: int) -> NoReturn:
    """End the command with a line on standard error."""
    typer.echo(pasteable(text), err=True)
    raise typer.Exit(code)
