"""Whatever several gateways do, in whatever order, with crashes: no window passes its limit."""

import asyncio
from collections import defaultdict
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from agentos.domain.admission.events import QuotaReserved
from agentos.domain.admission.ledger import Ledger, ledger_ref
from agentos.domain.admission.windows import Span, window_start
from agentos.domain.aggregate import read_events
from agentos.domain.errors import AgentOSError
from agentos.domain.log import Commit
from agentos.domain.tenant.tenant import Tenant
from agentos.gateways.model_policy.budgets import Budgets
from agentos.gateways.model_policy.leases import Reservation
from agentos.infra.memory.bus import MemoryBus
from tests.gateways.model_policy.test_budgets import World, a_world
from tests.handlers.node import UnevenLog
from tests.handlers.virtual import run_virtual

A_MINUTE, AN_HOUR, REQUESTS = 8_000, 20_000, 200
QUOTAS = {
    "token_budget": {"window": "minute", "max_tokens": A_MINUTE},
    "max_requests_per_minute": REQUESTS,
}
POLICY = {"token_budget": {"max_tokens_per_hour": AN_HOUR}}


@dataclass(frozen=True)
class Move:
    """What happens next: `what` to process `who`, with `number`."""

    what: str
    who: int
    number: int


moves = st.lists(
    st.builds(
        Move,
        st.sampled_from(
            ["reserve"] * 6 + ["burst", "settle", "settle", "release", "wait", "edge", "crash"]
        ),
        st.integers(0, 2),
        st.integers(1, 500),
    ),
    max_size=40,
)
fates = st.lists(st.sampled_from(["before", "after", "-", "-", "-"]), max_size=10)


@dataclass
class Held:
    """A reservation, when it was handed out, and the hold that it is a part of."""

    reservation: Reservation
    at: int
    hold_id: str

    @property
    def tokens(self) -> int:
        """What it counts."""
        settled = self.reservation.settled
        return (self.reservation.reserved if settled is None else settled)["tokens"]


class Story:
    """Three gateway processes and what they were granted."""

    def __init__(self, world: World, tenant: Tenant) -> None:
        self.world = world
        self.tenant = tenant
        self.buses: list[MemoryBus] = []
        self.budgets: list[Budgets] = []
        self.running: list[asyncio.Task[None]] = []
        self.held: list[Held] = []
        self.crashes = 0

    def start(self, at: int) -> None:
        """Start a process at a place."""
        node, bus = self.world.node, self.world.bus(at)
        budgets = Budgets(bus, node.clock, node.new_id, node.signals)
        self.buses[at : at + 1] = [bus]
        self.budgets[at : at + 1] = [budgets]
        self.running[at : at + 1] = [node.own(budgets.run())]

    async def play(self, move: Move) -> None:
        """Let a move happen."""
        mine = [h for h in self.held if h.reservation.settled is None]
        match move.what:
            case "reserve":
                await self.reserve(move.who, 1 + move.number // 8)  # small: blocks are leased
            case "burst":
                await asyncio.gather(*(self.reserve(n % 3, move.number) for n in range(12)))
            case "wait":
                await asyncio.sleep(move.number / 10)
            case "edge":
                left_ms = 60_000 - self.world.node.clock.now_ms() % 60_000
                await asyncio.sleep(max(0, left_ms - 10) / 1000)
                await self.reserve(move.who, 1 + move.number // 8)
                await asyncio.sleep(0.3)
                await self.reserve(move.who, 1)
            case "crash":
                await self.crash(move.who)
            case _ if mine:
                one = mine[move.number % len(mine)].reservation
                used = one.reserved["tokens"] * move.who // 2
                one.settle({} if move.what == "release" else {"requests": 1, "tokens": used})

    async def reserve(self, who: int, tokens: int) -> None:
        """Ask, and remember what was granted."""
        worst = {"requests": 1, "tokens": tokens}
        try:
            reservation = await self.budgets[who].reserve(self.tenant, worst)
        except AgentOSError:
            return
        lease = reservation._lease
        assert lease is not None
        self.held.append(Held(reservation, self.world.node.clock.now_ms(), lease.hold_id))

    async def crash(self, who: int) -> None:
        """End a process that can tell nobody any more, and start another one."""
        self.crashes += 1
        self.buses[who].handlers.clear()
        self.running[who].cancel()
        await asyncio.gather(self.running[who], return_exceptions=True)
        self.start(who)

    async def check(self) -> None:
        """Look at the whole history: by the ledger, and by what was handed out."""
        reserved_at: dict[str, int] = {}
        ledger = Ledger(ledger_ref("tnt_a", "models"))
        limits: tuple[tuple[Span, str, int], ...] = (
            ("minute", "tokens", A_MINUTE),
            ("hour", "tokens", AN_HOUR),
            ("minute", "requests", REQUESTS),
        )
        for record in await self.world.node.log.read(ledger.ref):
            for event in read_events(record, Ledger.PAYLOADS):
                ledger.evolve(event)
                for span, unit, limit in limits:
                    assert 0 <= ledger.used(span, unit, event.time) <= limit
                if isinstance(event.payload, QuotaReserved):
                    for hold_id, hold in (event.payload.holds or {}).items():
                        reserved_at[hold_id] = hold.reserved_at
        spent: dict[tuple[Span, int], int] = defaultdict(int)
        for one in self.held:
            at = reserved_at[one.hold_id]
            # The answer of a reservation may arrive a moment behind its window's end.
            assert window_start("minute", one.at - 100) <= window_start("minute", at)
            spent["minute", window_start("minute", at)] += one.tokens
            spent["hour", window_start("hour", at)] += one.tokens
        for (span, _), tokens in spent.items():
            assert tokens <= (A_MINUTE if span == "minute" else AN_HOUR)

    async def end(self) -> None:
        """Settle everything; without a crash the ledger then counts what was used, exactly."""
        for one in self.held:
            one.reservation.settle({"requests": 1, "tokens": one.tokens})
        await asyncio.sleep(30)
        if self.crashes:
            return
        now = self.world.node.clock.now_ms()
        ledger = await self.world.ledger()
        assert not ledger.holds
        this_hour = [
            h for h in self.held if window_start("hour", h.at) == window_start("hour", now)
        ]
        if len(this_hour) == len(self.held):
            assert ledger.used("hour", "tokens", now) == sum(h.tokens for h in self.held)


@settings(max_examples=60, deadline=None)
@given(moves, fates, st.integers(0, 2**16))
def test_no_interleaving_passes_a_limit(sequence: list[Move], how: list[str], seed: int) -> None:
    async def scenario() -> None:
        log = UnevenLog(seed)
        async with a_world(log, handlers=2) as world:
            tenant = await world.tenant(QUOTAS, policy=POLICY)
            fate = iter(how)

            def fail(commit: Commit) -> str | None:
                return next(fate, None) if commit.ref.aggregate_id == "models" else None

            log.fail = fail
            story = Story(world, tenant)
            await asyncio.sleep(0.5)  # nobody looks after idle blocks as a minute ends
            for at in range(3):
                story.start(at)
            for move in sequence:
                await story.play(move)
            await story.end()
            await story.check()

    run_virtual(scenario())
