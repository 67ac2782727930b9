"""Which runs go into a capsule, read from the log in one pass however many there are."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

from agentos.cli.replay_sources import (
    agent_of,
    audited_digest,
    note_missing,
    read_definitions,
    read_run,
)
from agentos.domain.agent.agent import Definition
from agentos.domain.errors import SubjectErasedError
from agentos.domain.log import Recorded
from agentos.domain.ports import EventLog
from agentos.domain.replay.capsule import agent_line, run_lines
from agentos.domain.replay.redaction import Redact
from agentos.domain.run.events import FINAL_TYPES
from agentos.domain.run.run import Run
from agentos.domain.subjects import StreamRef
from agentos.infra.capsules.writer import CapsuleWriter

TIME: Final = b'"time":"'
LENGTH: Final = len("2026-11-21T10:15:36.120Z")


@dataclass(frozen=True, slots=True)
class Chosen:
    """One run, or all that were under way between two times (RFC 3339, inclusive)."""

    run_id: str | None = None
    between: tuple[str, str] | None = None


class _Agents:
    """The versions that are in the capsule already, and those that are in the log."""

    def __init__(self, log: EventLog, tenant_id: str, writer: CapsuleWriter) -> None:
        self._log, self._tenant_id, self._writer = log, tenant_id, writer
        self._known: set[str] = set()

    async def need(self, agent_id: str, redact: Redact | None) -> None:
        """Put an agent's versions into the capsule, once."""
        if agent_id in self._known:
            return
        self._known.add(agent_id)
        found = await read_definitions(self._log, self._tenant_id, agent_id)
        for definition in found.values():
            self._writer.add([self._line(agent_id, definition, redact)])

    def _line(self, agent_id: str, definition: Definition, redact: Redact | None) -> bytes:
        return agent_line(self._tenant_id, agent_id, definition, redact or str)


async def export_runs(
    log: EventLog, tenant_id: str, chosen: Chosen, writer: CapsuleWriter, redact: Redact | None
) -> None:
    """Write the chosen runs of a tenant, with the agents behind them.

    Memory holds the runs that are under way side by side, whatever the log's length. Raises
    `NotFoundError` for a run that is not there, `SubjectErasedError` for one that was erased;
    between times those are passed over.
    """
    agents = _Agents(log, tenant_id, writer)
    async for records in _runs(log, tenant_id, chosen):
        agent_id = agent_of(records)
        await agents.need(agent_id, redact)
        audited = None
        if chosen.run_id is not None:
            audited = await audited_digest(log, records[0].ref, records[-1])
        head, block = run_lines(records, agent_id, redact, audited)
        writer.add([block], events=head.events)


async def _runs(log: EventLog, tenant_id: str, chosen: Chosen) -> AsyncIterator[list[Recorded]]:
    if chosen.run_id is not None:
        records = list((await read_run(log, tenant_id, chosen.run_id)).records)
        if _is_erased(records):
            raise SubjectErasedError("the data subject of the run was erased")
        yield records
        return
    note_missing(log)
    under_way: dict[StreamRef, list[Recorded]] = {}
    tail = log.tail(after=0, kinds=(Run.KIND,), tenant_id=tenant_id)
    async with aclosing(tail):  # type: ignore[type-var]  # an async generator
        async for batch in tail:
            for record in batch.records:
                if record.is_void:
                    continue
                under_way.setdefault(record.ref, []).append(record)
                if record.types[-1] in FINAL_TYPES:
                    records = under_way.pop(record.ref)
                    if _is_chosen(records, chosen):
                        yield records
            if batch.caught_up:
                break
    for records in under_way.values():
        if _is_chosen(records, chosen):
            yield records


def _is_erased(records: list[Recorded]) -> bool:
    return not all(record.readable for record in records)


def _is_chosen(records: list[Recorded], chosen: Chosen) -> bool:
    if _is_erased(records):
        return False  # nothing of it could be decided again
    if chosen.between is None:
        return True
    first, last = chosen.between
    return _time(records[0]) <= last and _time(records[-1]) >= first


def _time(record: Recorded) -> str:
    """Return the time of a commit: it stands at the same place in every line, unparsed."""
    at = record.body.index(TIME) + len(TIME)
    return record.body[at : at + LENGTH].decode()
