"""Erasing a data subject: its key is destroyed, what runs for it is stopped, and it is reported.

The decision is an event; everything behind it can be done again, and is, by the next handler
process that starts, where a crash came in between or a backup brought a key back.
"""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any, Final

import structlog

from agentos.domain.aggregate import Moment
from agentos.domain.auth import SYSTEM_PRINCIPAL, AuthContext
from agentos.domain.envelope import NO_TRACE, Event
from agentos.domain.errors import DependencyUnavailableError, NotFoundError
from agentos.domain.federation.forward import Forward
from agentos.domain.federation.ingest import Ingest
from agentos.domain.federation.remote import RemoteRun
from agentos.domain.log import Recorded
from agentos.domain.ports import ContentKeys
from agentos.domain.privacy.subject import DataSubject, key_id_of, subject_id_of, subject_ref
from agentos.domain.run.run import Run
from agentos.domain.subjects import StreamRef, cancel_notice
from agentos.domain.tenant.access import require_admin, require_reach
from agentos.domain.tenant.tenant import Tenant, tenant_ref
from agentos.domain.times import rfc3339
from agentos.handlers.audit import record_unchanged
from agentos.handlers.commands import EraseSubject
from agentos.handlers.deciding import decide_once
from agentos.handlers.parts import Parts
from agentos.handlers.runs import decide_on_run

AT_ONCE: Final = 64
HOLDING: Final = (Run.KIND, RemoteRun.KIND, Forward.KIND, Ingest.KIND)
"""The kinds whose events may hold a data subject's content."""
RUNS: Final = frozenset({Run.KIND, RemoteRun.KIND})
REASON: Final = "the data subject is erased"
log = structlog.get_logger()


async def erase_subject(parts: Parts, auth: AuthContext, command: EraseSubject) -> dict[str, Any]:
    """Destroy the key of a data subject's content. Returns `{erasure}`, the report.

    Once it has answered, no process of the node shows the content. An earlier one that was broken
    off is carried out first, and what came after its decision is erased as well. With `dry_run`
    only what would be reached is counted. Done again it finds nothing, and returns the last
    report.
    Raises `NotFoundError` for a tenant that is not the caller's to administer.
    """
    require_admin(auth)
    require_reach(auth, command.tenant_id)
    tenant = await parts.directory.reload(Tenant, tenant_ref(command.tenant_id))
    if tenant.status is None:
        raise NotFoundError("no such tenant")
    keys = _keys(parts)
    ref = subject_ref(command.tenant_id, subject_id_of(command.tenant_id, command.subject))
    subject = DataSubject(ref).fold(await parts.log.read(ref))
    at = parts.moment_of(auth, command)
    is_resumed = subject.is_pending and not command.dry_run
    if is_resumed:  # an earlier one: what came after its decision has a key of its own
        subject = await carry_out(parts, subject, at)
    is_there = await keys.state(command.tenant_id, subject.key_id) == "alive"
    if not is_resumed and (command.dry_run or not is_there):
        await record_unchanged(parts, auth, command, "subjects.erase")
    if command.dry_run or not is_there:
        report = subject.report if not is_there else await _reached(parts, ref, subject.generation)
        return {"erasure": _view(subject, report, done=is_resumed, is_dry=command.dry_run)}

    def decision(found: DataSubject, at: Moment) -> list[Event]:
        return found.erase(at)

    decided = await decide_once(parts, DataSubject, ref, at, decision)
    parts.crash_point("handlers.after_subject_erased")
    subject = await carry_out(parts, decided.aggregate, at)
    return {"erasure": _view(subject, subject.report, done=True, is_dry=False)}


async def carry_out(parts: Parts, subject: DataSubject, at: Moment) -> DataSubject:
    """Make an erasure that was decided true, and write down that it is; repeatable."""
    ref, generation = subject.ref, subject.generation - 1
    key_id = key_id_of(ref.aggregate_id, generation)
    await _keys(parts).destroy(ref.tenant_id, key_id)
    parts.crash_point("handlers.after_key_destroyed")
    canceled = await _cancel_runs(parts, ref.tenant_id, key_id)
    report = await _reached(parts, ref, generation) | {"runs_canceled": canceled}

    def decision(found: DataSubject, at: Moment) -> list[Event]:
        # Another may have completed this one, and a later one may be in hand.
        return found.complete(report, at) if found.generation == generation + 1 else []

    completed = await decide_once(parts, DataSubject, ref, _completing(at), decision)
    return completed.aggregate


async def resume_erasures(parts: Parts) -> int:
    """See every erasure of the log through; returns how many had something left to do."""
    keys = _keys(parts)
    lasts = await parts.log.last_of_kind(DataSubject.KIND)
    resumed = 0
    for start in range(0, len(lasts), AT_ONCE):
        some = (_resume(parts, keys, last.ref) for last in lasts[start : start + AT_ONCE])
        resumed += sum(await asyncio.gather(*some))
    if resumed:
        log.warning("erasures were seen through", subjects=resumed)
    return resumed


async def _resume(parts: Parts, keys: ContentKeys, ref: StreamRef) -> bool:
    subject = DataSubject(ref).fold(await parts.log.read(ref))
    back = [
        key_id
        for key_id in subject.erased_keys()
        if await keys.state(ref.tenant_id, key_id) != "destroyed"
    ]
    for key_id in back:
        await keys.destroy(ref.tenant_id, key_id)
    if subject.is_pending:
        await carry_out(parts, subject, parts.moment(SYSTEM_PRINCIPAL, NO_TRACE))
    return bool(back) or subject.is_pending


def _keys(parts: Parts) -> ContentKeys:
    if parts.keys is None:
        raise DependencyUnavailableError("there are no content keys", dependency="content_keys")
    return parts.keys


def _completing(at: Moment) -> Moment:
    """The same moment without the command's id: that named the decision before."""
    origin = at.origin
    return Moment(at.now_ms, at.new_id, type(origin)(origin.traceparent, origin.principal))


async def _cancel_runs(parts: Parts, tenant_id: str, key_id: str) -> int:
    """Stop what is in hand under a key; a run that was just missed ends by its executor's hand."""
    await parts.watch.read_on()
    refs = [run.ref for run in list(parts.watch.runs.values()) if run.sealed == key_id]
    for start in range(0, len(refs), AT_ONCE):
        await asyncio.gather(*(_cancel(parts, ref) for ref in refs[start : start + AT_ONCE]))
    return len(refs)


async def _cancel(parts: Parts, ref: StreamRef) -> None:
    at = parts.moment(SYSTEM_PRINCIPAL, NO_TRACE)

    async def decide(run: Run, records: list[Recorded]) -> None:
        if run.is_final or run.cancel is not None:
            return
        run.request_cancel(SYSTEM_PRINCIPAL.principal_id, REASON, at)
        if not parts.dispatcher.has_live_holder(run):
            run.finish_cancel(at)

    run = await decide_on_run(parts, ref, decide)
    if not run.is_final:
        await parts.signals.publish(cancel_notice(ref.aggregate_id), b"")


async def _reached(parts: Parts, ref: StreamRef, generation: int) -> dict[str, Any]:
    """Count what a key seals, by headers; runs at peers, of which there are copies, too."""
    key_id = key_id_of(ref.aggregate_id, generation)
    runs: set[str] = set()
    commits = events = 0
    tail = parts.log.tail(after=0, kinds=HOLDING, tenant_id=ref.tenant_id, headers_only=True)
    async with aclosing(tail):  # type: ignore[type-var]  # an async generator
        async for batch in tail:
            found = [record for record in batch.records if record.sealed == key_id]
            of_runs = (record for record in found if record.ref.kind in RUNS)
            runs.update(record.ref.aggregate_id for record in of_runs)
            commits += len(found)
            events += _events_of(found)
            if batch.caught_up:
                break
    return {"runs": len(runs), "commits": commits, "events": events}


def _events_of(records: Sequence[Recorded]) -> int:
    return sum(len(record.types) for record in records)


def _view(
    subject: DataSubject, report: dict[str, Any], *, done: bool, is_dry: bool
) -> dict[str, Any]:
    nothing = {"runs": 0, "commits": 0, "events": 0, "runs_canceled": 0}
    was_erased = subject.generation > 1
    return {
        "tenant_id": subject.ref.tenant_id,
        "subject_id": subject.ref.aggregate_id,
        "key_id": key_id_of(subject.ref.aggregate_id, max(1, subject.generation - (not is_dry))),
        "erased": was_erased and not is_dry,
        "done_now": done,
        "dry_run": is_dry,
        "key_destroyed_at": rfc3339(subject.erased_at) if was_erased else None,
        **nothing,
        **report,
    }
