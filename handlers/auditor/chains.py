"""Appends to the tenants' chains: each cause once, whoever else appends and whatever breaks.

The base of a chain's last commit is the log position up to which the tenant's causes are
recorded. A commit moves it in the same message that holds the records, under the subject's
lock: so a cause is behind the base, or has its record, never both and never neither. A cause whose
records are more than one commit takes is written in parts; only the last moves the base, and which
are there already is read from the chain.
"""

import asyncio
from collections.abc import Sequence
from copy import copy
from typing import Final, NamedTuple

import structlog

from agentos.domain.audit.chain import AuditChain, Entry, audit_id, chain_ref
from agentos.domain.errors import AgentOSError, AppendConflictError, PayloadTooLargeError
from agentos.domain.log import Recorded, make_commit
from agentos.handlers.auditor.parts import AuditorParts

RECORDS: Final = 500
BYTES: Final = 4 * 1024 * 1024
"""Of one commit: half of what a message may be."""
PAUSE_S: Final = 0.1
log = structlog.get_logger()


class Caused(NamedTuple):
    """The entries of one commit of the log."""

    position: int
    entries: list[Entry]


class Portion(NamedTuple):
    """What one commit records: `size` entries, those that are there already left out.

    It covers the log up to `covers`; 0 when more of the first cause is to come.
    """

    entries: list[Entry]
    covers: int
    size: int


class Chains:
    """The ends of all chains, kept from the last append and read again after a lost race."""

    def __init__(self, parts: AuditorParts) -> None:
        self._parts = parts
        self._ends: dict[str, AuditChain] = {}
        self._older: dict[str, frozenset[str]] = {}
        self._limits: dict[str, int] = {}

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
            limit = self._limits.get(tenant_id, RECORDS)
            portion = await self._portion(tenant_id, causes, limit)
            try:
                await self._append(tenant_id, end, portion)
            except AppendConflictError:
                self._ends.pop(tenant_id, None)
            except PayloadTooLargeError:
                self._limits[tenant_id] = _less(causes, min(limit, portion.size))
                if self._limits[tenant_id] == 0:
                    raise
            except AgentOSError as error:
                # Written or not: the chain's end says so when it is read.
                log.warning("audit waits", tenant_id=tenant_id, error=str(error))
                self._ends.pop(tenant_id, None)
                await asyncio.sleep(PAUSE_S)

    async def _portion(self, tenant_id: str, causes: Sequence[Caused], limit: int) -> Portion:
        """Return as many causes as `limit` records: whole ones, or else a part of the first."""
        older, first = self._older.get(tenant_id, frozenset()), causes[0]
        if len(first.entries) > limit:
            older |= await self._ids(tenant_id, after=first.position)
            left = [entry for entry in first.entries if audit_id(entry) not in older]
            covers = first.position if len(left) <= limit else 0
            return Portion(left[:limit], covers, min(len(left), limit))
        chunk = _chunk(causes, limit)
        entries = [entry for cause in chunk for entry in cause.entries]
        new = [entry for entry in entries if audit_id(entry) not in older]
        return Portion(new, chunk[-1].position, len(entries))

    async def _append(self, tenant_id: str, before: AuditChain, portion: Portion) -> None:
        """Append a portion; `PayloadTooLargeError`, with nothing written, where it is too much."""
        parts, expected = self._parts, before.position
        covers = portion.covers or before.covered
        if not portion.entries:
            before.covered = covers
            return
        end = copy(before)
        events = end.record(portion.entries, parts.moment())
        commit = make_commit(end.ref, events, parts.new_id, base=covers)
        if len(commit.body) > BYTES:
            raise PayloadTooLargeError("the records are more than a commit takes", limit=BYTES)
        parts.crash_point("auditor.before_append")
        end.position = await parts.log.append(commit, expected=expected)
        parts.crash_point("auditor.after_append")
        end.covered = covers
        self._ends[tenant_id] = end
        self._older.pop(tenant_id, None)
        if portion.covers:
            self._limits.pop(tenant_id, None)
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

    async def _ids(self, tenant_id: str, after: int = 0) -> frozenset[str]:
        """Return the records of a chain behind a position, where they may be there already.

        An older version wrote records of mutations itself, and of a large cause a part may have
        been written: nothing is written twice.
        """
        chain = await self._parts.log.read(chain_ref(tenant_id), after=after)
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


def _less(causes: Sequence[Caused], count: int) -> int:
    """Return the limit to try after `count` records were too much; 0 when nothing is less.

    A cause is taken apart only where it is too large by itself: then it always is, and whoever
    goes on with it looks for the parts that are there.
    """
    first = len(causes[0].entries)
    return max(first, count // 2) if count > first else count // 2


def _chunk(causes: Sequence[Caused], limit: int) -> list[Caused]:
    """Return as many whole causes as `limit` records; the first fits."""
    chosen, count = [causes[0]], len(causes[0].entries)
    for cause in causes[1:]:
        count += len(cause.entries)
        if count > limit:
            break
        chosen.append(cause)
    return chosen
