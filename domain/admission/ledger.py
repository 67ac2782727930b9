"""A tenant's ledger of one resource: reserve the worst case, settle at what it came to.

Held and settled amounts together never pass a budget: a call counts in the windows in which it
was reserved, a hold that nobody settles counts at its worst case for good.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Final

from agentos.domain.admission.balanced import Balanced
from agentos.domain.admission.budgets import REQUESTS, Budget
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
from agentos.domain.errors import (
    AgentOSError,
    InvalidRequestError,
    QuotaExceededError,
    RateLimitedError,
)
from agentos.domain.subjects import StreamRef
from agentos.domain.times import rfc3339

BALANCE_EVERY: Final = 512
SHARE: Final = 8
"""A block is at most this part of what remains of every budget that it touches."""

Amounts = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Ask:
    """What something may use at most. The same id asked again holds once.

    With a `block`, at least as much as `amounts`, the asker would rather hold that: it gets it
    while it is at most an eighth of what remains of every budget, else exactly its `amounts`.
    """

    hold_id: str
    amounts: Amounts
    block: Amounts | None = None


@dataclass(frozen=True, slots=True)
class End:
    """What a hold came to; `None`: nobody knows, so its worst case stands."""

    hold_id: str
    amounts: Amounts | None


@dataclass(frozen=True, slots=True)
class Part:
    """What of a block was handed out to nobody and comes back."""

    hold_id: str
    amounts: Amounts


@dataclass(frozen=True, slots=True)
class Granted:
    """What a batch came to: events to append, what each ask holds, and why others do not."""

    events: list[Event]
    holds: dict[str, Hold]
    refused: dict[str, AgentOSError]


class Book:
    """Holds, and counters by `<span>:<unit>` of the newest window only."""

    def __init__(self, holds: dict[str, Hold], counters: dict[str, Counter]) -> None:
        self.holds = holds
        self.counters = counters
        self.blocks = {hold_id for hold_id, hold in holds.items() if hold.block}

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]  # mutable: never a key

    def hold(self, hold_id: str) -> Hold | None:
        """Return what is held under an id."""
        return self.holds.get(hold_id)

    def put(self, hold_id: str, hold: Hold | None) -> None:
        """Hold that under the id, or nothing."""
        self.blocks.discard(hold_id)
        if hold is None:
            self.holds.pop(hold_id, None)
            return
        self.holds[hold_id] = hold
        if hold.block:
            self.blocks.add(hold_id)

    def counter(self, name: str) -> Counter | None:
        """Return a counter."""
        return self.counters.get(name)

    def used(self, span: Span, unit: str, time_ms: int) -> int:
        """Return what is used and held of a unit in the window that holds `time_ms`."""
        counter = self.counter(f"{span}:{unit}")
        if counter is None or counter.start != window_start(span, time_ms):
            return 0
        return counter.amount

    def reserve(self, hold_id: str, hold: Hold) -> None:
        """Count a hold at its worst case."""
        self.put(hold_id, hold)
        self._count(hold.amounts, hold.reserved_at, 1)

    def end(self, hold_id: str, amounts: Amounts) -> None:
        """Count a hold at what it came to."""
        hold = self.hold(hold_id)
        if hold is not None:
            self.put(hold_id, None)
            self._count(hold.amounts, hold.reserved_at, -1)
            self._count(amounts, hold.reserved_at, 1)

    def expire(self, hold_id: str) -> None:
        """Let a hold's worst case stand."""
        self.put(hold_id, None)

    def trim(self, hold_id: str, part: Amounts) -> None:
        """Take a part off a hold: it is no block any more."""
        hold = self.hold(hold_id)
        if hold is not None:
            left = {unit: n - part.get(unit, 0) for unit, n in hold.amounts.items()}
            self.put(hold_id, Hold(amounts=left, reserved_at=hold.reserved_at))
            self._count(part, hold.reserved_at, -1)

    def _count(self, amounts: Amounts, time_ms: int, sign: int) -> None:
        for span in SPANS:
            start = window_start(span, time_ms)
            for unit, amount in amounts.items():
                name = f"{span}:{unit}"
                counter = self.counter(name)
                if counter is None or start > counter.start:
                    counter = Counter(start=start, amount=0)
                if start == counter.start:
                    amount_now = counter.amount + sign * amount
                    self.counters[name] = Counter(start=start, amount=amount_now)


class Draft(Book):
    """A book as it would be: changes on top of one that they leave alone."""

    def __init__(self, below: Book) -> None:
        super().__init__({}, {})
        self._below = below
        self._gone: set[str] = set()

    def hold(self, hold_id: str) -> Hold | None:
        """Return what is held under an id."""
        if hold_id in self._gone:
            return None
        return self.holds.get(hold_id) or self._below.hold(hold_id)

    def put(self, hold_id: str, hold: Hold | None) -> None:
        """Hold that under the id, or nothing."""
        if hold is None:
            self._gone.add(hold_id)
        else:
            self._gone.discard(hold_id)
        super().put(hold_id, hold)

    def counter(self, name: str) -> Counter | None:
        """Return a counter."""
        return self.counters.get(name) or self._below.counter(name)

    def whole(self) -> Book:
        """Return the whole book; this one costs as much as there are holds."""
        left = {i: hold for i, hold in self._below.holds.items() if i not in self._gone}
        return Book(left | self.holds, self._below.counters | self.counters)


class Ledger(Balanced):
    """What is held and used."""

    KIND: ClassVar = "quota"
    PAYLOADS: ClassVar = by_type(
        QuotaReserved, QuotaReleased, QuotaSettled, QuotaExpired, QuotaBalanced
    )

    def __init__(self, ref: StreamRef) -> None:
        super().__init__(ref)
        self._book = Book({}, {})

    @property
    def resource(self) -> Resource:
        """Which resource it counts."""
        return self.ref.aggregate_id  # type: ignore[return-value]  # `ledger_ref` takes no other

    @property
    def holds(self) -> Mapping[str, Hold]:
        """What is held, by id."""
        return self._book.holds

    @property
    def counters(self) -> Mapping[str, Counter]:
        """What is used and held, by `<span>:<unit>`, of the newest window only."""
        return self._book.counters

    @property
    def has_blocks(self) -> bool:
        """Whether somebody holds a block, of which parts might come back."""
        return bool(self._book.blocks)

    def used(self, span: Span, unit: str, time_ms: int) -> int:
        """Return what is used and held of a unit in the window that holds `time_ms`."""
        return self._book.used(span, unit, time_ms)

    # How it evolves

    def apply(self, event: Event) -> None:
        """Evolve by one event."""
        payload, book = event.payload, self._book
        if isinstance(payload, QuotaReserved):
            for hold_id, hold in (payload.holds or {}).items():
                book.reserve(hold_id, hold)
        elif isinstance(payload, QuotaReleased):
            for hold_id in payload.hold_ids or ():
                book.end(hold_id, {})
            for hold_id, part in (payload.parts or {}).items():
                book.trim(hold_id, part)
        elif isinstance(payload, QuotaSettled):
            for hold_id, amounts in payload.amounts.items():
                book.end(hold_id, amounts)
        elif isinstance(payload, QuotaExpired):
            for hold_id in payload.hold_ids:
                book.expire(hold_id)
        elif isinstance(payload, QuotaBalanced):
            self._book = Book(dict(payload.holds or {}), dict(payload.counters or {}))

    # What it decides

    def decide(
        self,
        asks: Sequence[Ask],
        ends: Sequence[End],
        budgets: Sequence[Budget],
        at: Moment,
        parts: Sequence[Part] = (),
    ) -> Granted:
        """Decide a batch: take parts back, end holds, then reserve in order while it fits.

        Changes nothing here, and costs as much as is asked, not as much as is held.
        `InvalidRequestError` for an amount that is negative.
        """
        if any(n < 0 for ask in asks for n in (*ask.amounts.values(), *(ask.block or {}).values())):
            raise InvalidRequestError("an amount cannot be negative")
        now = self.later(at.now_ms)
        draft = Draft(self._book)
        payloads = self._given_back(draft, parts, ends)
        reserved: dict[str, Hold] = {}
        decided = Granted([], {}, {})
        for ask in asks:
            if (there := draft.hold(ask.hold_id)) is not None:
                decided.holds[ask.hold_id] = there
            elif (error := _over(draft, ask.amounts, budgets, now)) is not None:
                decided.refused[ask.hold_id] = error
            else:
                hold = _hold(draft, ask, budgets, now)
                decided.holds[ask.hold_id] = reserved[ask.hold_id] = hold
                draft.reserve(ask.hold_id, hold)
        if reserved:
            payloads.append(QuotaReserved(resource=self.resource, holds=reserved))
        if payloads and self.since_balance >= BALANCE_EVERY:
            whole = draft.whole()
            payloads.append(
                QuotaBalanced(resource=self.resource, holds=whole.holds, counters=whole.counters)
            )
        decided.events.extend(self._numbered(payloads, at))
        return decided

    def _given_back(
        self, draft: Draft, parts: Sequence[Part], ends: Sequence[End]
    ) -> list[Payload]:
        """Apply `parts` and `ends` to the draft and return what is to be written of them."""
        trimmed: dict[str, dict[str, int]] = {}
        settled: dict[str, dict[str, int]] = {}
        released: list[str] = []
        expired: list[str] = []
        for part in parts:
            hold = draft.hold(part.hold_id)
            if hold is None or not hold.block:
                continue  # given back before, or settled
            fits = {u: min(n, hold.amounts.get(u, 0)) for u, n in part.amounts.items() if n > 0}
            trimmed[part.hold_id] = fits
            draft.trim(part.hold_id, fits)
        for end in ends:
            if draft.hold(end.hold_id) is None:
                continue
            if end.amounts is None:
                expired.append(end.hold_id)
                draft.expire(end.hold_id)
                continue
            if any(end.amounts.values()):
                settled[end.hold_id] = dict(end.amounts)
            else:
                released.append(end.hold_id)
            draft.end(end.hold_id, end.amounts)
        payloads: list[Payload] = []
        resource = self.resource
        if trimmed:
            payloads.append(QuotaReleased(resource=resource, parts=trimmed))
        if settled:
            payloads.append(QuotaSettled(resource=resource, amounts=settled))
        if released:
            payloads.append(QuotaReleased(resource=resource, hold_ids=released))
        if expired:
            payloads.append(QuotaExpired(resource=resource, hold_ids=expired))
        return payloads

    def _numbered(self, payloads: Sequence[Payload], at: Moment) -> list[Event]:
        events = [next_event(self, payload, at) for payload in payloads]
        return [
            replace(event, sequence=event.sequence + ahead) for ahead, event in enumerate(events)
        ]


def ledger_ref(tenant_id: str, resource: Resource) -> StreamRef:
    """Return where a tenant's ledger of a resource is."""
    return StreamRef(tenant_id, Ledger.KIND, resource)


def _hold(book: Book, ask: Ask, budgets: Sequence[Budget], now: int) -> Hold:
    if ask.block is not None and _is_small(book, ask.block, budgets, now):
        most = {u: max(n, ask.block.get(u, 0)) for u, n in ask.amounts.items()}
        return Hold(amounts={**ask.block, **most}, reserved_at=now, block=True)
    return Hold(amounts=dict(ask.amounts), reserved_at=now)


def _is_small(book: Book, block: Amounts, budgets: Sequence[Budget], now: int) -> bool:
    return all(
        block.get(b.unit, 0) * SHARE <= b.limit - book.used(b.span, b.unit, now) for b in budgets
    )


def _over(book: Book, amounts: Amounts, budgets: Sequence[Budget], now: int) -> AgentOSError | None:
    for budget in budgets:
        used = book.used(budget.span, budget.unit, now)
        if used + amounts.get(budget.unit, 0) > budget.limit:
            return _refusal(budget, used, now)
    return None


def _refusal(budget: Budget, used: int, now: int) -> AgentOSError:
    """Return what the caller is told: a rate comes back by itself, a budget is spent."""
    details = {"limit": budget.limit, "used": used, "unit": budget.unit}
    resets = window_end(budget.span, now)
    if resets is not None:
        details |= {"window": budget.span, "resets_at": rfc3339(resets)}
    if budget.unit == REQUESTS and resets is not None:
        wait_ms = max(1, resets - now)
        return RateLimitedError("too many requests", **details, retry_after_ms=wait_ms)
    return QuotaExceededError("the budget is spent", **details, retryable=False)
