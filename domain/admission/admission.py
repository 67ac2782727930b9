"""One tenant's run slots and run rate, decided exactly in one aggregate.

Every run that is not final holds a reservation under its run id: made twice it is one, freed
once. The rate is a GCRA bucket kept as one integer: the theoretical arrival time of the next
run, in microseconds.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Final

from agentos.domain.admission.balanced import Balanced
from agentos.domain.admission.events import QuotaBalanced, QuotaReleased, QuotaReserved
from agentos.domain.aggregate import Moment, next_event
from agentos.domain.envelope import Event, Payload, by_type
from agentos.domain.errors import AgentOSError, QuotaExceededError, RateLimitedError
from agentos.domain.subjects import StreamRef
from agentos.domain.tenant.quotas import RunLimits

BALANCE_EVERY: Final = 512


@dataclass(frozen=True, slots=True)
class Decision:
    """What a batch of asks came to: events to append, and what each refused run is told."""

    events: list[Event]
    refused: dict[str, AgentOSError]


class Admission(Balanced):
    """A tenant's slots and rate. `active` maps run id → when it was reserved (epoch ms)."""

    KIND: ClassVar = "quota"
    PAYLOADS: ClassVar = by_type(QuotaReserved, QuotaReleased, QuotaBalanced)

    def __init__(self, ref: StreamRef) -> None:
        super().__init__(ref)
        self.active: dict[str, int] = {}
        self.rate_us = 0

    def apply(self, event: Event) -> None:
        """Evolve by one event."""
        payload = event.payload
        if isinstance(payload, QuotaReserved):
            for run_id in payload.run_ids or ():
                self.active.setdefault(run_id, event.time)
            self.rate_us = payload.rate_us or self.rate_us
        elif isinstance(payload, QuotaReleased):
            for run_id in payload.run_ids or ():
                self.active.pop(run_id, None)
        elif isinstance(payload, QuotaBalanced):
            self.active = dict(payload.run_ids or {})
            self.rate_us = payload.rate_us or 0

    def decide(
        self, asks: Sequence[str], free: Sequence[str], limits: RunLimits, at: Moment
    ) -> Decision:
        """Decide a batch: free those slots, then give slots to `asks` in their order.

        Changes nothing here: the events count once they are written. A run that holds a slot
        gets no second one, and one that holds none frees none.
        """
        freed = [run_id for run_id in dict.fromkeys(free) if run_id in self.active]
        used = len(self.active) - len(freed)
        granted: dict[str, None] = {}
        refused: dict[str, AgentOSError] = {}
        rate_us, now_us = self.rate_us, self.later(at.now_ms) * 1000
        gone = set(freed)
        for run_id in asks:
            if run_id in granted or (run_id in self.active and run_id not in gone):
                continue
            error = _over_concurrency(limits, used + len(granted))
            if error is None:
                rate_us, error = _over_rate(limits, rate_us, now_us)
            if error is None:
                granted[run_id] = None
            else:
                refused[run_id] = error
        return Decision(self._events(freed, list(granted), used, rate_us, at), refused)

    def _events(
        self, freed: list[str], granted: list[str], used: int, rate_us: int, at: Moment
    ) -> list[Event]:
        payloads: list[Payload] = []
        if freed:
            payloads.append(QuotaReleased(run_ids=freed, active=used))
        if granted:
            rate = rate_us if rate_us != self.rate_us else None
            active = used + len(granted)
            payloads.append(QuotaReserved(run_ids=granted, active=active, rate_us=rate))
        if payloads and self.since_balance >= BALANCE_EVERY:
            payloads.append(self._balance(freed, granted, rate_us, self.later(at.now_ms)))
        events = [next_event(self, payload, at) for payload in payloads]
        return [_moved_by(event, ahead) for ahead, event in enumerate(events)]

    def _balance(
        self, freed: list[str], granted: list[str], rate_us: int, time: int
    ) -> QuotaBalanced:
        gone = set(freed)
        left = {run_id: at for run_id, at in self.active.items() if run_id not in gone}
        return QuotaBalanced(run_ids=left | dict.fromkeys(granted, time), rate_us=rate_us)


def admission_ref(tenant_id: str) -> StreamRef:
    """Return where a tenant's run admission is."""
    return StreamRef(tenant_id, Admission.KIND, "runs")


def _moved_by(event: Event, ahead: int) -> Event:
    return replace(event, sequence=event.sequence + ahead) if ahead else event


def _over_concurrency(limits: RunLimits, used: int) -> AgentOSError | None:
    limit = limits.max_concurrent_runs
    if limit is None or used < limit:
        return None
    return QuotaExceededError("too many runs at once", limit=limit, used=used)


def _over_rate(limits: RunLimits, rate_us: int, now_us: int) -> tuple[int, AgentOSError | None]:
    if limits.run_create_qps is None:
        return rate_us, None
    interval = round(1_000_000 / limits.run_create_qps)
    tolerance = interval * (limits.run_create_burst or 1)
    arrival = max(rate_us, now_us) + interval
    wait_us = arrival - now_us - tolerance
    if wait_us <= 0:
        return arrival, None
    wait_ms = -(-wait_us // 1000)
    limit = limits.run_create_qps
    error = RateLimitedError("too many new runs a second", limit=limit, retry_after_ms=wait_ms)
    return rate_us, error
