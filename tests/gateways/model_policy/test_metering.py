"""Usage on its way to the log: never waited for, never twice, never lost in silence."""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentos.domain.aggregate import read_events
from agentos.domain.auth import AuthContext, Principal
from agentos.domain.errors import DependencyUnavailableError, InternalError, TimedOutError
from agentos.domain.log import Commit
from agentos.domain.run.events import TokenUsage
from agentos.domain.usage.usage import PolicySaid, RedactedSpan, Usage, UsageRecorded, usage_ref
from agentos.gateways.http.metrics import Metrics
from agentos.gateways.model_policy.metering import MOST_REDACTIONS, Meter
from agentos.handlers.parts import Parts
from agentos.handlers.routes import handle
from agentos.infra.memory.bus import MemoryBus
from tests.domain.given import TRACE
from tests.handlers.node import Node, UnevenLog, a_node
from tests.handlers.virtual import run_virtual, virtual_time

ANNA = Principal(principal_id="usr_anna")


def used(request_id: str, **more: Any) -> dict[str, Any]:
    """Return the fields of a call's usage."""
    fields: dict[str, Any] = {
        "request_id": request_id,
        "operation": "chat",
        "model_ref": "builtin/echo",
        "backend": "builtin",
        "model": "echo",
        "status": "ok",
        "usage": TokenUsage(input_tokens=3, output_tokens=4, total_tokens=7),
        "cost_usd": 0.5,
    }
    return UsageRecorded(**{**fields, **more}).model_dump()


def bus_to(*processes: Parts) -> MemoryBus:
    """Return a bus to handlers, by turns."""
    turn = iter(range(10**9))

    async def record(auth: AuthContext, command: Mapping[str, Any]) -> dict[str, Any]:
        parts = processes[next(turn) % len(processes)]
        message = {"auth": auth.model_dump(), "command": dict(command)}
        return await handle(parts, "usage.record", message)

    return MemoryBus({"usage.record": record})


def a_meter(node: Node, bus: MemoryBus, **options: Any) -> tuple[Meter, Metrics]:
    """Start a meter."""
    metrics = Metrics()
    meter = Meter(bus, node.log, node.new_id, metrics, **options)
    node.own(meter.run())
    return meter, metrics


async def recorded(node: Node, tenant_id: str = "tnt_a") -> list[UsageRecorded]:
    """Return what the log has."""
    found = await node.log.read(usage_ref(tenant_id))
    events = [e for record in found for e in read_events(record, Usage.PAYLOADS)]
    assert [e.sequence for e in events] == list(range(1, len(events) + 1))
    return [e.payload for e in events if isinstance(e.payload, UsageRecorded)]


def lost(metrics: Metrics, reason: str) -> float:
    """Return how many calls have no event of their own."""
    labels = {"reason": reason}
    return metrics.registry.get_sample_value("agentos_usage_unrecorded_total", labels) or 0.0


@virtual_time
async def test_calls_are_written_in_company_each_with_its_principal() -> None:
    async with a_node() as node:
        meter, metrics = a_meter(node, bus_to(await node.handlers()))
        before = await node.log.head()
        for n in range(300):
            who = Principal(principal_id=f"usr_{n % 2}")
            meter.record("tnt_a", who, TRACE, used(f"req_{n}"))
        meter.record("tnt_b", ANNA, TRACE, used("req_b"))
        await asyncio.sleep(1)
        assert [u.request_id for u in await recorded(node)] == [f"req_{n}" for n in range(300)]
        assert len(await recorded(node, "tnt_b")) == 1
        assert await node.log.head() - before == 3
        (first, *_) = await node.log.read(usage_ref("tnt_a"))
        principals = [e.principal for e in read_events(first, Usage.PAYLOADS)]
        assert [p.principal_id for p in principals[:2] if p] == ["usr_0", "usr_1"]
        sample = metrics.registry.get_sample_value
        assert sample("agentos_model_tokens_total", {"direction": "output"}) == 301 * 4
        assert sample("agentos_model_cost_usd_total") == 301 * 0.5
        assert meter.waiting == 0


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.lists(st.sampled_from(["after", "before", "-"]), max_size=12))
def test_whatever_answers_get_lost_each_call_counts_once(seed: int, how: list[str]) -> None:
    async def scenario() -> None:
        log = UnevenLog(seed)
        fates = iter(how)

        def fail(commit: Commit) -> str | None:
            return next(fates, None) if commit.ref.kind == "usage" else None

        async with a_node(log) as node:
            log.fail = fail
            processes = [await node.handlers() for _ in range(2)]
            meters = [a_meter(node, bus_to(*processes))[0] for _ in range(2)]
            for n in range(40):
                meters[n % 2].record("tnt_a", ANNA, TRACE, used(f"req_{n}"))
                await asyncio.sleep(0.007)
            await asyncio.sleep(60)
            found = sorted(u.request_id for u in await recorded(node))
            assert found == sorted(f"req_{n}" for n in range(40))

    run_virtual(scenario())


@virtual_time
async def test_a_batch_that_arrives_again_much_later_is_known() -> None:
    async with a_node() as node:
        first, other = await node.handlers(), await node.handlers()
        call = {
            "principal": ANNA.model_dump(),
            "traceparent": TRACE,
            "usage": used("req_1"),
        }
        command = {"traceparent": TRACE, "batch_id": "bat_1", "after": 0, "calls": [call]}
        auth = AuthContext(tenant_id="tnt_a", principal=ANNA, scopes=frozenset())
        again = bus_to(first, other)
        places = [await again.send("usage.record", auth, command)]
        for n in range(2, 5):  # others write meanwhile
            more = {**command, "batch_id": f"bat_{n}"}
            await bus_to(other).send("usage.record", auth, more)
        fresh = await node.handlers()
        for process in (first, other, fresh):
            places.append(await bus_to(process).send("usage.record", auth, command))
        assert len({place["position"] for place in places}) == 1
        assert len(await recorded(node)) == 4


@virtual_time
async def test_while_nobody_listens_calls_are_kept_up_to_a_bound(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with a_node() as node:
        bus = MemoryBus({})
        meter, metrics = a_meter(node, bus, most=10)
        for n in range(12):
            meter.record("tnt_a", ANNA, TRACE, used(f"req_{n}"))
        await asyncio.sleep(5)
        assert lost(metrics, "overflow") == 2
        assert "the usage of 1 calls is lost (overflow)" in caplog.text
        bus.handlers |= bus_to(await node.handlers()).handlers
        await asyncio.sleep(5)
        assert len(await recorded(node)) == 10


@virtual_time
async def test_a_graceful_stop_writes_what_is_left() -> None:
    async with a_node() as node:
        meter = Meter(bus_to(await node.handlers()), node.log, node.new_id, Metrics())
        running = asyncio.create_task(meter.run())
        await asyncio.sleep(0.1)
        meter.record("tnt_a", ANNA, TRACE, used("req_1"))
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert len(await recorded(node)) == 1


@virtual_time
async def test_what_cannot_be_written_at_the_stop_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with a_node() as node:
        metrics = Metrics()
        meter = Meter(MemoryBus({}), node.log, node.new_id, metrics)
        running = asyncio.create_task(meter.run())
        meter.record("tnt_a", ANNA, TRACE, used("req_1"))
        await asyncio.sleep(0.1)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert lost(metrics, "stopped") == 1
        assert caplog.records[-1].levelno == logging.ERROR


@virtual_time
async def test_refusals_are_ten_a_second_and_the_next_says_how_many_there_were() -> None:
    async with a_node() as node:
        meter, metrics = a_meter(node, bus_to(await node.handlers()))
        for n in range(50):
            meter.record("tnt_a", ANNA, TRACE, used(f"req_{n}", status="refused"))
        meter.record("tnt_a", ANNA, TRACE, used("fine"))
        await asyncio.sleep(1)
        meter.record("tnt_a", ANNA, TRACE, used("late", status="refused"))
        await asyncio.sleep(1)
        found = await recorded(node)
        assert [u.status for u in found] == ["refused"] * 10 + ["ok", "refused"]
        assert found[-1].stands_for == 41
        assert lost(metrics, "refused") == 40


@virtual_time
async def test_a_call_that_is_no_json_harms_no_other() -> None:
    async with a_node() as node:
        meter, metrics = a_meter(node, bus_to(await node.handlers()))
        meter.record("tnt_a", ANNA, TRACE, used("req_\ud800"))
        meter.record("tnt_a", ANNA, TRACE, used("req_2"))
        await asyncio.sleep(1)
        assert [u.request_id for u in await recorded(node)] == ["req_2"]
        assert lost(metrics, "unfit") == 1


@virtual_time
async def test_more_spans_than_anybody_reads_are_left_out() -> None:
    async with a_node() as node:
        meter, _ = a_meter(node, bus_to(await node.handlers()))
        spans = tuple(RedactedSpan(type="email", field="f", start=n, end=n) for n in range(5000))
        findings = {"input": {"email": 5000}}
        policy = PolicySaid(decision="redacted", redactions=spans, findings=findings)
        meter.record("tnt_a", ANNA, TRACE, used("req_1", policy=policy))
        await asyncio.sleep(1)
        (found,) = await recorded(node)
        assert found.policy is not None
        assert len(found.policy.redactions) == MOST_REDACTIONS
        assert found.policy.findings == findings


@virtual_time
async def test_a_handler_that_breaks_is_given_up_and_others_are_tried_again() -> None:
    async with a_node() as node:
        errors: list[Exception] = [TimedOutError("t"), DependencyUnavailableError("d")]
        errors += [InternalError("i")] * 10

        async def record(auth: AuthContext, command: Mapping[str, Any]) -> dict[str, Any]:
            raise errors.pop(0)

        meter, metrics = a_meter(node, MemoryBus({"usage.record": record}))
        meter.record("tnt_a", ANNA, TRACE, used("req_1"))
        await asyncio.sleep(60)
        assert errors == []
        assert lost(metrics, "rejected") == 1
