"""What the auditor remembers of live runs: who started them, and the digest so far."""

import hashlib
from collections import OrderedDict
from typing import Final

from agentos.domain.audit.causes import RunSeen
from agentos.domain.auth import SYSTEM_PRINCIPAL, Principal
from agentos.domain.envelope import read_line
from agentos.domain.log import Recorded
from agentos.domain.ports import EventLog
from agentos.domain.run.events import FINAL_TYPES, RunCreated
from agentos.domain.subjects import StreamRef

KEPT: Final = 10_000


class _Trace:
    """One run up to `sequence`: its first fact, and the digest of its lines."""

    __slots__ = ("digest", "seen", "sequence")

    def __init__(self) -> None:
        self.seen = RunSeen(SYSTEM_PRINCIPAL)
        self.digest = hashlib.sha256()
        self.sequence = 0

    def take(self, record: Recorded) -> None:
        """Go on by a commit; one that was taken before changes nothing."""
        if record.is_void or record.first_sequence <= self.sequence:
            return
        if record.types[0] == RunCreated.TYPE:
            self.seen = _first(record)
        if self.sequence:
            self.digest.update(b"\n")
        self.digest.update(record.body)
        self.sequence = record.last_sequence


class LiveRuns:
    """Follows the runs of the log; what it forgot, or never saw, is read again when it is asked.

    At most `kept` runs are in memory, whatever the number of live ones.
    """

    def __init__(self, log: EventLog, kept: int = KEPT) -> None:
        self._log = log
        self._kept = kept
        self._traces: OrderedDict[StreamRef, _Trace] = OrderedDict()

    def __len__(self) -> int:
        return len(self._traces)

    def follow(self, record: Recorded) -> None:
        """Take in a run's commit, in the order of the log."""
        trace = self._traces.get(record.ref)
        if trace is None:
            if record.first_sequence != 1 or record.is_void:
                return
            trace = self._traces[record.ref] = _Trace()
            if len(self._traces) > self._kept:
                self._traces.popitem(last=False)
        trace.take(record)

    async def at(self, record: Recorded) -> RunSeen:
        """Return what is known of a run just behind one of its commits, which was followed.

        Behind the final event the run is forgotten.
        """
        trace = self._traces.get(record.ref)
        if trace is None or trace.sequence != record.last_sequence:
            trace = await self._read(record)
        if record.types and record.types[-1] in FINAL_TYPES:
            self._traces.pop(record.ref, None)
        seen = trace.seen
        return RunSeen(
            seen.principal,
            seen.correlation_id,
            seen.agent_id,
            seen.policy_context,
            trace.digest.copy().hexdigest(),
        )

    async def _read(self, record: Recorded) -> _Trace:
        trace = _Trace()
        for known in await self._log.read(record.ref):
            if known.position <= record.position:
                trace.take(known)
        self._traces[record.ref] = trace
        return trace


def _first(record: Recorded) -> RunSeen:
    inner = read_line(record.lines()[0])
    payload = inner["payload"]
    return RunSeen(
        Principal.model_validate(payload["principal"]),
        payload.get("correlation_id") or record.correlation_id,
        inner.get("agent_id") or "",
        payload.get("policy_context"),
    )
