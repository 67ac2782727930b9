"""Budgets over real processes and a real broker, and one call followed into every view of it."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from agentos.domain.admission.events import QuotaReserved
from agentos.domain.admission.ledger import Ledger, ledger_ref
from agentos.domain.aggregate import read_events
from agentos.domain.auth import system_auth
from agentos.domain.envelope import NO_TRACE
from agentos.domain.errors import AgentOSError, QuotaExceededError
from agentos.domain.subjects import heartbeat
from agentos.domain.tenant.tenant import Tenant, tenant_ref
from agentos.gateways.model_policy.budgets import Budgets
from agentos.gateways.model_policy.leases import Reservation
from agentos.infra.clock import SystemClock, SystemIds
from agentos.infra.jetstream.bus import NatsCommandBus
from agentos.infra.jetstream.connection import Connection, bounded_close, connect
from agentos.infra.jetstream.log import JetStreamLog
from agentos.infra.jetstream.signals import NatsSignals
from tests.journeys.mini_node import MiniNode

EACH = {"requests": 1, "tokens": 100, "micro_usd": 10}


@pytest.fixture
async def node() -> AsyncIterator[MiniNode]:
    """Servers only; the test starts the processes."""
    mini = MiniNode()
    await mini.open()
    yield mini
    await mini.close()


@asynccontextmanager
async def gateway(node: MiniNode) -> AsyncIterator[tuple[Budgets, Connection]]:
    """The budgets of a gateway process, on a connection of its own."""
    connection = await connect(node.nats.url, "gateway")
    bus, signals = NatsCommandBus(connection), NatsSignals(connection)
    budgets = Budgets(bus, SystemClock(), SystemIds(), signals)
    running = asyncio.create_task(budgets.run())
    try:
        yield budgets, connection
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await bounded_close(connection)


async def heard(connection: Connection, handlers: int) -> None:
    """Wait until so many handler processes have been heard."""
    workers: set[str] = set()
    enough = asyncio.Event()

    def on_beat(subject: str, data: bytes) -> None:
        workers.add(subject)
        if len(workers) >= handlers:
            enough.set()

    stop = await NatsSignals(connection).subscribe(heartbeat("handlers", "*"), on_beat)
    async with asyncio.timeout(30):
        await enough.wait()
    await stop()


async def a_tenant(connection: Connection, max_tokens: int) -> Tenant:
    """Make a tenant that may use so many tokens a month, once two handlers answer."""
    await heard(connection, 2)
    quotas = {"models": {"token_budget": {"window": "month", "max_tokens": max_tokens}}}
    profile = {"name": "A", "plan_tier": "demo", "quotas": quotas}
    command = {"tenant_id": "tnt_a", "profile": profile, "traceparent": NO_TRACE}
    await NatsCommandBus(connection).send("tenant.create", system_auth("tnt_a"), command)
    ref = tenant_ref("tnt_a")
    return Tenant(ref).fold(await JetStreamLog(connection).read(ref))


async def tried(budgets: Budgets, tenant: Tenant, worst: dict[str, int]) -> Reservation | None:
    """Reserve; `None` when the budget is spent."""
    try:
        return await budgets.reserve(tenant, worst)
    except QuotaExceededError:
        return None


async def most_held(connection: Connection) -> int:
    """Return the most tokens that ever counted in a month, over the whole log."""
    ledger, most = Ledger(ledger_ref("tnt_a", "models")), 0
    for record in await JetStreamLog(connection).read(ledger.ref):
        for event in read_events(record, Ledger.PAYLOADS):
            ledger.evolve(event)
            if isinstance(event.payload, QuotaReserved):
                most = max(most, ledger.used("month", "tokens", event.time))
    return most


async def counted(connection: Connection, tokens: int) -> None:
    """Wait until the ledger counts that: settlements travel a moment behind their calls."""
    log, ref = JetStreamLog(connection), ledger_ref("tnt_a", "models")
    async with asyncio.timeout(10):
        while True:
            ledger = Ledger(ref)
            ledger.catch_up(await log.read(ref))
            if ledger.used("month", "tokens", SystemClock().now_ms()) == tokens:
                return


async def test_sixty_at_the_edge_exactly_fill_the_limit(node: MiniNode) -> None:
    node.start("handlers")
    node.start("handlers2")
    async with AsyncExitStack() as opened:
        gateways = [await opened.enter_async_context(gateway(node)) for _ in range(3)]
        connection = gateways[0][1]
        tenant = await a_tenant(connection, 12_345)
        # Far from the limit blocks are leased, and given back when others need them.
        for budgets, _ in gateways:
            (await budgets.reserve(tenant, {"tokens": 45})).settle({"tokens": 15})
        asked = [tried(gateways[n % 3][0], tenant, {"tokens": 600}) for n in range(60)]
        granted = [r for r in await asyncio.gather(*asked) if r is not None]
        assert len(granted) == (12_345 - 3 * 15) // 600
        for reservation in granted:
            reservation.settle({"tokens": 100})
        used = 3 * 15 + len(granted) * 100
        await counted(connection, used)
        left = 12_345 - used
        assert await tried(gateways[1][0], tenant, {"tokens": left + 1}) is None
        assert await tried(gateways[2][0], tenant, {"tokens": left}) is not None
        assert await most_held(connection) == 12_345


async def test_a_killed_handler_lets_no_budget_be_passed(node: MiniNode) -> None:
    node.start("handlers")
    node.start("handlers2")
    async with AsyncExitStack() as opened:
        gateways = [await opened.enter_async_context(gateway(node)) for _ in range(2)]
        tenant = await a_tenant(gateways[0][1], 100_000)
        came_to: Counter[str] = Counter()

        async def client(at: int) -> None:
            for n in range(100):
                try:
                    reservation = await gateways[at % 2][0].reserve(tenant, EACH)
                except AgentOSError as error:
                    came_to[error.code] += 1
                    continue
                reservation.settle({"tokens": 80 if n % 2 else 100, "requests": 1})
                came_to["ok"] += 1
                if came_to["ok"] == 300:
                    node.kill("handlers2")

        await asyncio.gather(*(client(at) for at in range(16)))
        assert came_to["ok"] * 80 <= 100_000
        assert came_to["ok"] >= 900, came_to
        assert came_to["quota_exceeded"] > 0
        assert await most_held(gateways[0][1]) <= 100_000


async def test_one_call_is_in_every_view_of_usage(node: MiniNode) -> None:
    for name in ("handlers", "executor", "projector", "gateway"):
        node.start(name)
    await node.gateway_up()
    body: dict[str, Any] = {
        "model": "builtin/echo",
        "messages": [{"role": "user", "content": "write to anna@example.com"}],
    }
    url = f"http://127.0.0.1:{node.ports[1]}/v1/chat/completions"
    async with node.http.post(url, json=body) as answer:
        assert answer.status == 200, await answer.text()
        completion = await answer.json()
        request_id = answer.headers["X-Request-Id"]
    usage = completion["usage"]
    async with asyncio.timeout(10):
        while True:
            async with node.http.get(f"/v1/model-calls/{request_id}") as answer:
                if answer.status == 200:
                    call = (await answer.json())["model_call"]
                    break
    assert (call["status"], call["backend"], call["model"]) == ("ok", "builtin", "echo")
    assert call["usage"]["input_tokens"] == usage["prompt_tokens"]
    assert call["policy"]["decision"] == "redacted"
    assert "anna@example.com" not in str(call)
    async with node.http.get(f"/v1/model-calls/{completion['id']}") as answer:
        assert (await answer.json())["model_call"] == call
    async with node.http.get("/v1/usage?group_by=model,principal_id") as answer:
        (row,) = [r for r in (await answer.json())["usage"] if r["model"]]
    assert (row["model"], row["principal_id"]) == ("builtin/echo", "usr_test")
    assert row["model_calls"] == 1
    assert row["output_tokens"] == usage["completion_tokens"]
