"""A tenant's ledger of one resource: reserve the worst case, settle at what it came to.

Held and settled amounts together never pass a budget: a call counts in the windows in which it
was reserved, a hold that nobody settles counts at its worst case for good.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Final

from agentos.domain.admission.admission import Decision
from agentos.domain.admission.balanced import Balanced
from agentos.domain.admission.events import (
    Counter,
    Hold,
    QuotaBalanced,
    QuotaExpired,
    QuotaReleased,
    QuotaReserved,
    QuotaSettled,
    Resource,
)
from agentos.domain.admission.windows import SPANS, Span, window_end, window_start
from agentos.domain.aggregate import Moment, next_event
from agentos.domain.envelope import Event, Payload, by_type
from agentos.domain.errors import AgentOSError, InvalidRequestError, QuotaExceededError
from agentos.domain.subjects import StreamRef
from agentos.domain.times import rfc3339

BALANCE_EVERY: Final = 512
Amounts = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Budget:
    """At most so much of a unit in one calendar window (or `ever`)."""

    span: Span
    unit: str
    limit: int


@dataclass(frozen=True, slots=True)
class Ask:
    """What something may use at most. The same id asked again holds once."""

    hold_id: str
    amounts: Amounts


@dataclass(frozen=True, slots=True)
class End:
    """What a hold came to; `None`: nobody knows, so its worst case stands."""

    hold_id: str
    amounts: Amounts | None


class Ledger(Balanced):
    """What is held and used. `counters` are by `<span>:<unit>`, of the newest window only."""

    KIND: ClassVar = "quota"
    PAYLOADS: ClassVar = by_type(
        QuotaReserved, QuotaReleased, QuotaSettled, QuotaExpired, QuotaBalanced
    )

    def __init__(self, ref: StreamRef) -> None:
        super().__init__(ref)
        self.holds: dict[str, Hold] = {}
        self.counters: dict[str, Counter] = {}

    @property
    def resource(self) -> Resource:
        """Which resource it counts."""
        return self.ref.aggregate_id  # type: ignore[return-value]  # `ledger_ref` takes no other

    def used(self, span: Span, unit: str, time_ms: int) -> int:
        """Return what is used and held of a unit in the window that holds `time_ms`."""
        counter = self.counters.get(f"{span}:{unit}")
        if counter is None or counter.start != window_start(span, time_ms):
            return 0
        return counter.amount

    # How it evolves

    def apply(self, event: Event) -> None:
        """Evolve by one event."""
        payload = event.payload
        if isinstance(payload, QuotaReserved):
            for hold_id, hold in (payload.holds or {}).items():
                self.holds[hold_id] = hold
                self._count(hold.amounts, hold.reserved_at, 1)
        elif isinstance(payload, QuotaReleased):
            for hold_id in payload.hold_ids or ():
                self._end(hold_id, {})
        elif isinstance(payload, QuotaSettled):
            for hold_id, amounts in payload.amounts.items():
                self._end(hold_id, amounts)
        elif isinstance(payload, QuotaExpired):
            for hold_id in payload.hold_ids:
                self.holds.pop(hold_id, None)
        elif isinstance(payload, QuotaBalanced):
            self.holds = dict(payload.holds or {})
            self.counters = dict(payload.counters or {})

    def _end(self, hold_id: str, amounts: Amounts) -> None:
        hold = self.holds.pop(hold_id, None)
        if hold is not None:
            self._count(hold.amounts, hold.reserved_at, -1)
            self._count(amounts, hold.reserved_at, 1)

    def _count(self, amounts: Amounts, time_ms: int, sign: int) -> None:
        for unit, amount in amounts.items():
            for span in SPANS:
                name, start = f"{span}:{unit}", window_start(span, time_ms)
                counter = self.counters.get(name)
                if counter is None or start > counter.start:
                    counter = Counter(start=start, amount=0)
                if start == counter.start:
                    amount_now = counter.amount + sign * amount
                    self.counters[name] = Counter(start=start, amount=amount_now)

    # What it decides

    def decide(
        self, asks: Sequence[Ask], ends: Sequence[End], budgets: Sequence[Budget], at: Moment
    ) -> Decision:
        """Decide a batch: end holds, then reserve `asks` in their order while they fit.

        Changes nothing here. `InvalidRequestError` for an amount that is negative.
        """
        if any(n < 0 for ask in asks for n in ask.amounts.values()):
            raise InvalidRequestError("an amount cannot be negative")
        now = self.later(at.now_ms)
        draft = self._draft()
        payloads = draft._ended(ends)
        granted: dict[str, Hold] = {}
        refused: dict[str, AgentOSError] = {}
        for ask in asks:
            if ask.hold_id in draft.holds:
                continue
            error = draft._over(ask, budgets, now)
            if error is not None:
                refused[ask.hold_id] = error
                continue
            hold = granted[ask.hold_id] = Hold(amounts=dict(ask.amounts), reserved_at=now)
            draft.holds[ask.hold_id] = hold
            draft._count(hold.amounts, now, 1)
        if granted:
            payloads.append(QuotaReserved(resource=self.resource, holds=granted))
        if payloads and self.since_balance >= BALANCE_EVERY:
            payloads.append(
                QuotaBalanced(resource=self.resource, holds=draft.holds, counters=draft.counters)
            )
        return Decision(self._numbered(payloads, at), refused)

    def _draft(self) -> "Ledger":
        draft = Ledger(self.ref)
        draft.holds, draft.counters = dict(self.holds), dict(self.counters)
        return draft

    def _ended(self, ends: Sequence[End]) -> list[Payload]:
        """Apply `ends` here and return what is to be written of them."""
        settled: dict[str, dict[str, int]] = {}
        released: list[str] = []
        expired: list[str] = []
        for end in ends:
            if end.hold_id not in self.holds:
                continue
            if end.amounts is None:
                expired.append(end.hold_id)
                self.holds.pop(end.hold_id)
            else:
                if any(end.amounts.values()):
                    settled[end.hold_id] = dict(end.amounts)
                else:
                    released.append(end.hold_id)
                self._end(end.hold_id, end.amounts)
        payloads: list[Payload] = []
        if settled:
            payloads.append(QuotaSettled(resource=self.resource, amounts=settled))
        if released:
            payloads.append(QuotaReleased(resource=self.resource, hold_ids=released))
        if expired:
            payloads.append(QuotaExpired(resource=self.resource, hold_ids=expired))
        return payloads

    def _over(self, ask: Ask, budgets: Sequence[Budget], now: int) -> AgentOSError | None:
        for budget in budgets:
            used = self.used(budget.span, budget.unit, now)
            if used + ask.amounts.get(budget.unit, 0) <= budget.limit:
                continue
            details = {"limit": budget.limit, "used": used, "unit": budget.unit}
            if (resets := window_end(budget.span, now)) is not None:
                details |= {"window": budget.span, "resets_at": rfc3339(resets)}
            return QuotaExceededError("the budget is spent", **details, retryable=False)
        return None

    def _numbered(self, payloads: Sequence[Payload], at: Moment) -> list[Event]:
        events = [next_event(self, payload, at) for payload in payloads]
        return [
            replace(event, sequence=event.sequence + ahead) for ahead, event in enumerate(events)
        ]


def ledger_ref(tenant_id: str, resource: Resource) -> StreamRef:
    """Return where a tenant's ledger of a resource is."""
    return StreamRef(tenant_id, Ledger.KIND, resource)
