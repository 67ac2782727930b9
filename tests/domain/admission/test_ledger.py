"""The ledger: held and settled amounts together never pass a budget."""

from hypothesis import given
from hypothesis import strategies as st

from agentos.domain.admission.budgets import Budget
from agentos.domain.admission.ledger import Ask, End, Granted, Ledger, Part, ledger_ref
from agentos.domain.admission.windows import window_start
from agentos.domain.errors import QuotaExceededError
from agentos.domain.log import Recorded, make_commit
from tests.domain.given import Ids, moment

MINUTE = 60_000
START = 1_700_000_040_000 - 1_700_000_040_000 % MINUTE
BUDGET = [Budget("minute", "tokens", 100)]


class Book:
    """A ledger and the log that it writes."""

    def __init__(self) -> None:
        self.new_id = Ids()
        self.ledger = Ledger(ledger_ref("tnt_a", "models"))
        self.records: list[Recorded] = []

    def lease(self, hold_id: str, need: int, block: int, *parts: Part) -> int:
        """Ask for a block and write; returns what is held, 0 when it is refused."""
        ask = Ask(hold_id, {"tokens": need}, {"tokens": block})
        decision = self.ledger.decide([ask], (), BUDGET, moment(START), parts)
        self._write(decision)
        hold = decision.holds.get(hold_id)
        return hold.amounts["tokens"] if hold else 0

    def decide(
        self, *asks: tuple[str, int], ends: tuple[End, ...] = (), at: int = START
    ) -> dict[str, QuotaExceededError]:
        """Decide and write; returns what was refused."""
        wanted = [Ask(hold_id, {"tokens": amount}) for hold_id, amount in asks]
        decision = self.ledger.decide(wanted, ends, BUDGET, moment(at))
        self._write(decision)
        return decision.refused  # type: ignore[return-value]  # a ledger refuses no other way

    def _write(self, decision: Granted) -> None:
        if decision.events:
            commit = make_commit(
                self.ledger.ref, decision.events, self.new_id, base=self.ledger.base
            )
            position = len(self.records) + 1
            fields = {name: getattr(commit, name) for name in commit.__dataclass_fields__}
            self.records.append(Recorded(**fields, position=position))
            self.ledger.written(decision.events, position)

    def used(self, at: int = START) -> int:
        """Return what the ledger counts in the minute of `at`."""
        return self.ledger.used("minute", "tokens", at)


def test_it_refuses_what_does_not_fit_and_says_when_to_come_back() -> None:
    book = Book()
    refused = book.decide(("a", 60), ("b", 50), ("c", 40))
    assert list(refused) == ["b"]
    assert refused["b"].details["limit"] == 100
    assert refused["b"].details["used"] == 60
    assert refused["b"].details["window"] == "minute"
    assert refused["b"].to_wire()["retryable"] is False
    assert book.used() == 100


def test_a_settlement_gives_back_what_was_not_used() -> None:
    book = Book()
    book.decide(("a", 100))
    book.decide(ends=(End("a", {"tokens": 30}),))
    assert book.used() == 30
    assert book.decide(("b", 70)) == {}


def test_a_release_gives_everything_back_and_an_expiry_nothing() -> None:
    book = Book()
    book.decide(("a", 40), ("b", 40))
    book.decide(ends=(End("a", {}), End("b", None)))
    assert book.used() == 40
    assert not book.ledger.holds


def test_ends_and_asks_count_once() -> None:
    book = Book()
    book.decide(("a", 40))
    book.decide(("a", 40))
    assert book.used() == 40
    book.decide(ends=(End("a", {"tokens": 10}),))
    book.decide(ends=(End("a", {"tokens": 10}),))
    assert book.used() == 10


def test_a_call_counts_in_the_window_that_reserved_it() -> None:
    book = Book()
    book.decide(("a", 100))
    assert book.decide(("b", 100), at=START + MINUTE) == {}
    book.decide(ends=(End("a", {"tokens": 50}),), at=START + MINUTE)
    assert book.used(START + MINUTE) == 100


Step = tuple[str, str, int, int]
steps = st.lists(
    st.tuples(
        st.sampled_from(["ask", "settle", "release", "expire"]),
        st.sampled_from("abcdef"),
        st.integers(0, 60),
        st.integers(0, 40_000),
    ),
    max_size=60,
)


@given(steps)
def test_no_sequence_passes_the_budget_and_folds_agree(sequence: list[Step]) -> None:
    book, now = Book(), START
    for what, hold_id, amount, later in sequence:
        now += later
        held = book.ledger.holds.get(hold_id)
        if what == "ask":
            book.decide((hold_id, amount), at=now)
        elif what == "settle":
            most = held.amounts["tokens"] if held else 0
            end = End(hold_id, {"tokens": min(amount, most)})
            book.decide(ends=(end,), at=now)
        else:
            book.decide(ends=(End(hold_id, {} if what == "release" else None),), at=now)
        assert 0 <= book.used(now) <= 100
        holds = (h for h in book.ledger.holds.values())
        held_now = sum(
            h.amounts["tokens"]
            for h in holds
            if window_start("minute", h.reserved_at) == window_start("minute", now)
        )
        assert held_now <= book.used(now)
    again = Ledger(book.ledger.ref)
    again.catch_up(book.records)
    assert again == book.ledger


def test_a_fold_may_begin_at_the_balance() -> None:
    book = Book()
    for n in range(1200):
        book.decide((f"h{n}", 1), ends=(End(f"h{n - 1}", {"tokens": 0}),))
    base = book.ledger.base
    assert base > 0
    again = Ledger(book.ledger.ref)
    again.catch_up(book.records[base - 1 :])
    assert again == book.ledger


def test_a_block_is_granted_up_to_an_eighth_of_what_remains_else_the_need() -> None:
    book = Book()
    assert book.lease("a", 2, 13) == 2  # an eighth of 100 is less
    assert book.lease("b", 2, 12) == 12  # of 98
    assert book.lease("c", 86, 86) == 86
    assert book.lease("d", 1, 1) == 0
    assert book.used() == 100
    assert book.ledger.has_blocks


def test_parts_of_a_block_come_back_once_and_never_more_than_it_holds() -> None:
    book = Book()
    book.lease("a", 2, 12)
    book.lease("b", 1, 1, Part("a", {"tokens": 10}))
    assert book.used() == 3
    assert book.lease("b", 1, 1, Part("a", {"tokens": 10})) == 1  # told again: known
    assert book.used() == 3
    book.lease("c", 1, 12, Part("b", {"tokens": 1}), Part("none", {"tokens": 1}))
    book.lease("d", 1, 1, Part("c", {"tokens": 99}))
    assert book.ledger.holds["c"].amounts == {"tokens": 0}
    assert 0 <= book.used() <= 100
    book.decide(ends=(End("a", {"tokens": 2}), End("c", {})))
    again = Ledger(book.ledger.ref)
    again.catch_up(book.records)
    assert again == book.ledger
