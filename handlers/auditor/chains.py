"""Appends to the tenants' chains: each cause once, whoever else appends and whatever breaks.

The base of a chain's last commit is the log position up to which the tenant's causes are
recorded. A commit moves it in the same message that holds the records, under the subject's
lock: so a cause is behind the base, or has its record, never both and never neither.
"""

import asyncio
from collections.abc import Sequence
from typing import Final, NamedTuple

import structlog

from agentos.domain.audit.chain import AuditChain, Entry, audit_id, chain_ref
from agentos.domain.errors import AgentOSError, AppendConflictError
from agentos.domain.log import Recorded, make_commit
from agentos.handlers.auditor.parts import AuditorParts

RECORDS: Final = 500
PAUSE_S: Final = 0.1
log = structlog.get_logger()


class Caused(NamedTuple):
    """The entries of one commit of the log."""

    position: int
    entries: list[Entry]


class Chains:
    """The ends of all chains, kept from the last append and read again after a lost race."""

    def __init__(self, parts: AuditorParts) -> None:
        self._parts = parts
        self._ends: dict[str, AuditChain] = {}
        self._older: dict[str, frozenset[str]] = {}

    def known(self, last: Recorded) -> None:
        """Take in a chain's last commit, before the first append."""
        self._ends[last.ref.tenant_id] = AuditChain(last.ref).fold([last])

    def covered(self, tenant_id: str) -> int:
        """Return the position up to which the tenant's causes are known to be recorded."""
        end = self._ends.get(tenant_id)
        return 0 if end is None else end.covered

    async def write(self, tenant_id: str, causes: Sequence[Caused]) -> None:
        """Record the causes, in their order, those that are not yet; tries until it is done."""
        while causes:
            end = self._ends.get(tenant_id) or await self._read(tenant_id)
            if end.covered == 0 and end.sequence and tenant_id not in self._older:
                self._older[tenant_id] = await self._ids(tenant_id)
            causes = [cause for cause in causes if cause.position > end.covered]
            if not causes:
                break
            chunk = _chunk(causes)
            try:
                await self._append(tenant_id, end, chunk)
            except AppendConflictError:
                self._ends.pop(tenant_id, None)
            except AgentOSError as error:
                # Written or not: the chain's end says so when it is read.
                log.warning("audit waits", tenant_id=tenant_id, error=str(error))
                self._ends.pop(tenant_id, None)
                await asyncio.sleep(PAUSE_S)

    async def _append(self, tenant_id: str, end: AuditChain, chunk: Sequence[Caused]) -> None:
        parts, expected, covers = self._parts, end.position, chunk[-1].position
        older = self._older.get(tenant_id, frozenset())
        entries = [e for cause in chunk for e in cause.entries if audit_id(e) not in older]
        if not entries:
            end.covered = covers
            return
        self._ends.pop(tenant_id, None)
        events = end.record(entries, parts.moment())
        commit = make_commit(end.ref, events, parts.new_id, base=covers)
        parts.crash_point("auditor.before_append")
        end.position = await parts.log.append(commit, expected=expected)
        parts.crash_point("auditor.after_append")
        end.covered = covers
        self._ends[tenant_id] = end
        self._older.pop(tenant_id, None)
        parts.metrics.records.inc(len(events))

    async def _read(self, tenant_id: str) -> AuditChain:
        ref = chain_ref(tenant_id)
        while True:
            try:
                last = await self._parts.log.last(ref)
            except AgentOSError as error:
                log.warning("audit waits", tenant_id=tenant_id, error=str(error))
                await asyncio.sleep(PAUSE_S)
                continue
            end = AuditChain(ref).fold([last] if last else [])
            self._ends[tenant_id] = end
            return end

    async def _ids(self, tenant_id: str) -> frozenset[str]:
        """Return the records of a chain that the auditor has never written to.

        An older version wrote records of mutations itself: they are not written twice.
        """
        chain = await self._parts.log.read(chain_ref(tenant_id))
        lines = (line for record in chain for line in record.lines())
        return frozenset(_audit_id_in(line) for line in lines)


async def record_once(parts: AuditorParts, tenant_id: str, entry: Entry) -> None:
    """Append one entry that no event of the log causes; what is covered stays as it is."""
    ref = chain_ref(tenant_id)
    while True:
        last = await parts.log.last(ref)
        end = AuditChain(ref).fold([last] if last else [])
        expected = end.position
        events = end.record([entry], parts.moment())
        commit = make_commit(ref, events, parts.new_id, base=end.covered)
        try:
            await parts.log.append(commit, expected=expected)
        except AppendConflictError:
            continue
        return


def _audit_id_in(line: bytes) -> str:
    return line.partition(b'"audit_id":"')[2].partition(b'"')[0].decode()


def _chunk(causes: Sequence[Caused]) -> list[Caused]:
    """Return as many causes as one commit takes: at least one, whole."""
    chosen, count = [causes[0]], len(causes[0].entries)
    for cause in causes[1:]:
        count += len(cause.entries)
        if count > RECORDS:
            break
        chosen.append(cause)
    return chosen
