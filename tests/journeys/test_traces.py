"""Traces of a real node, as a real collector gets them: parents, ids, times, and outages."""

import asyncio
import json
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from agentos.domain.times import to_ms
from tests.infra.telemetry.collector import Collector, Received
from tests.journeys.mini_node import DEV_HEADERS, MiniNode

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.slow,
    pytest.mark.timeout(300),
]
PARENT = "00f067aa0ba902b7"
NAMES = ("gateway", "handlers", "executor", "projector")
SECRETS = ("calculate 6 * 7", "the answer", "hush hush")


class Traced:
    """A node, its model door, and a collector."""

    def __init__(self) -> None:
        self.node = MiniNode()
        self.collector = Collector()
        self.models: aiohttp.ClientSession

    async def begin(self) -> None:
        """Start all; the tracer stands at the log's end before anything happens."""
        await self.collector.open()
        await self.node.open(*NAMES)
        await self.node.ready()
        self.models = aiohttp.ClientSession(
            f"http://127.0.0.1:{self.node.ports[1]}", headers=DEV_HEADERS
        )
        self.trace()
        await self.tracing()

    def trace(self) -> None:
        """Start the tracer."""
        self.node.start("tracer", AGENTOS_OTLP_ENDPOINT=self.collector.url)

    async def tracing(self) -> None:
        """Wait until the tracer sends what happens."""
        async with asyncio.timeout(60):
            while True:
                trace_id = f"{self.number():032x}"
                status, _ = await self.node.post_run("hello", headers=of(trace_id))
                assert status == 201
                try:
                    await self.collector.until(partial(self.has, trace_id), within=2.0)
                except AssertionError:
                    continue
                return

    _number = 0

    def number(self) -> int:
        """Return a number that was not used before."""
        self._number += 1
        return self._number

    def has(self, trace_id: str, spans: list[Received]) -> bool:
        """Whether something of a trace is among the spans."""
        return any(span.trace_id == trace_id for span in spans)

    def of(self, trace_id: str) -> list[Received]:
        """Return a trace's spans without repeats, in the order of their starts."""
        found = {span.span_id: span for span in self.collector.spans if span.trace_id == trace_id}
        return sorted(found.values(), key=lambda span: (span.start_ms, span.name))

    async def finish(self) -> None:
        """End all."""
        await self.models.close()
        await self.node.close()
        await self.collector.close()


def of(trace_id: str, sampled: str = "01") -> dict[str, str]:
    """Return the header of a caller within a trace."""
    return {"traceparent": f"00-{trace_id}-{PARENT}-{sampled}"}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def traced() -> AsyncIterator[Traced]:
    """A node with a collector."""
    opened = Traced()
    await opened.begin()
    yield opened
    await opened.finish()


async def run(traced: Traced, text: str, trace_id: str, **more: Any) -> list[dict[str, Any]]:
    """Make a run in a trace and return its events."""
    status, body = await traced.node.post_run(text, headers=of(trace_id), **more)
    assert status == 201, body
    run_id = body["run"]["run_id"]
    await traced.node.finished(run_id)
    return await traced.node.events(run_id)


def by_name(spans: list[Received], start: str) -> list[Received]:
    return [span for span in spans if span.name.startswith(start)]


async def test_a_run_is_a_tree_of_spans(traced: Traced) -> None:
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    events = await run(traced, "calculate 6 * 7", trace_id, context={"session_id": "ses 1"})
    await traced.collector.until(lambda _: len(traced.of(trace_id)) >= 6)
    spans = traced.of(trace_id)
    (agent,) = by_name(spans, "invoke_agent agt_demo")
    steps, chats = by_name(spans, "step "), by_name(spans, "chat ")
    (tool,) = by_name(spans, "execute_tool tool.calculate")
    assert len(spans) == 6  # two model calls, one tool call

    assert agent.parent == PARENT
    assert {span.parent for span in [*steps, tool]} == {agent.span_id}
    assert [chat.parent for chat in chats] == [step.span_id for step in steps]

    created, end = events[0], events[-1]
    in_events = {e["trace"]["span_id"] for e in events}
    assert in_events == {agent.span_id, tool.span_id, *(step.span_id for step in steps)}
    for event in events:
        assert event["trace"]["traceparent"] == f"00-{trace_id}-{event['trace']['span_id']}-01"
    assert created["payload"]["parent_span_id"] == PARENT

    assert (agent.start_ms, agent.end_ms) == (to_ms(created["time"]), to_ms(end["time"]))
    times = {
        (e["trace"]["span_id"], e["type"]): to_ms(e["time"])
        for e in events
        if ".step." in e["type"]
    }
    for span in [*steps, tool]:
        assert span.start_ms == times[span.span_id, "agentos.run.step.started"]
        assert span.end_ms == times[span.span_id, "agentos.run.step.completed"]
    for chat, step in zip(chats, steps, strict=True):
        assert step.start_ms - 3 <= chat.start_ms <= chat.end_ms <= step.end_ms + 1

    said = agent.attributes
    assert said["gen_ai.operation.name"] == "invoke_agent"
    assert said["gen_ai.agent.id"] == said["gen_ai.agent.name"] == "agt_demo"
    assert said["gen_ai.conversation.id"] == "ses 1"
    assert said["agentos.run.status"] == "completed"
    assert said["agentos.tenant.id"] == "tnt_demo"
    usage = [e["payload"]["usage"] for e in events if e["type"] == "agentos.model.completed"]
    assert said["gen_ai.usage.input_tokens"] == sum(u["input_tokens"] for u in usage)
    assert said["gen_ai.usage.output_tokens"] == sum(u["output_tokens"] for u in usage)

    (requested,) = [e for e in events if e["type"] == "agentos.tool.call.requested"]
    assert tool.attributes["gen_ai.operation.name"] == "execute_tool"
    assert tool.attributes["gen_ai.tool.name"] == "tool.calculate"
    assert tool.attributes["gen_ai.tool.call.id"] == requested["payload"]["tool_call_id"]
    for chat, used in zip(chats, usage, strict=True):
        assert chat.attributes["gen_ai.operation.name"] == "chat"
        assert chat.attributes["gen_ai.provider.name"] == "agentos"
        assert chat.attributes["gen_ai.request.model"] == "builtin/scripted"
        assert chat.attributes["gen_ai.response.model"] == "scripted"
        assert chat.attributes["gen_ai.usage.input_tokens"] == used["input_tokens"]
        assert chat.attributes["gen_ai.usage.output_tokens"] == used["output_tokens"]
        assert chat.attributes["gen_ai.agent.id"] == "agt_demo"
    assert {span.status for span in spans} == {0}


async def test_a_direct_call_of_an_openai_client_is_a_span(traced: Traced) -> None:
    trace_id = "a" * 32
    body = {"model": "builtin/echo", "messages": [{"role": "user", "content": "hush hush"}]}
    async with traced.models.post(
        "/v1/chat/completions", json=body, headers=of(trace_id)
    ) as answer:
        assert answer.status == 200, await answer.text()
        usage = (await answer.json())["usage"]
    await traced.collector.until(lambda _: traced.of(trace_id))
    (chat,) = traced.of(trace_id)
    assert (chat.name, chat.parent, chat.kind) == ("chat builtin/echo", PARENT, 3)
    assert chat.attributes["gen_ai.usage.input_tokens"] == usage["prompt_tokens"]
    assert chat.attributes["agentos.call.status"] == "ok"
    assert "agentos.run.id" not in chat.attributes


async def test_without_a_callers_trace_the_run_begins_one(traced: Traced) -> None:
    before = len(traced.collector.named("invoke_agent"))
    status, _ = await traced.node.post_run("hello")
    assert status == 201
    await traced.collector.until(lambda _: len(traced.collector.named("invoke_agent")) > before)
    newest = max(traced.collector.named("invoke_agent"), key=lambda span: span.start_ms)
    assert newest.parent == ""
    assert newest.trace_id != "0" * 32


async def test_a_failure_is_an_error(traced: Traced) -> None:
    trace_id = "b" * 32
    body = {"model": "no/such", "messages": [{"role": "user", "content": "hush hush"}]}
    async with traced.models.post(
        "/v1/chat/completions", json=body, headers=of(trace_id)
    ) as answer:
        assert answer.status == 400
        code = (await answer.json())["error"]["code"]
    await traced.collector.until(lambda _: traced.of(trace_id))
    (chat,) = traced.of(trace_id)
    assert (chat.status, chat.attributes["error.type"]) == (2, code)


async def test_a_trace_that_is_not_sampled_is_not_sent(traced: Traced) -> None:
    unwanted, wanted = "c" * 32, "d" * 32
    status, body = await traced.node.post_run("calculate 1 + 1", headers=of(unwanted, "00"))
    assert status == 201
    await traced.node.finished(body["run"]["run_id"])
    await run(traced, "calculate 6 * 7", wanted)
    await traced.collector.until(lambda _: len(traced.of(wanted)) >= 6)
    assert traced.of(unwanted) == []


async def test_nothing_is_lost_while_the_collector_is_away(traced: Traced) -> None:
    """Down before, down over a restart of the tracer, and the node minds neither."""
    await traced.collector.close()
    trace_ids = [f"{0xE0 + n:032x}" for n in range(5)]
    for trace_id in trace_ids[:3]:
        assert (await run(traced, "calculate 6 * 7", trace_id))[-1]["type"].endswith("completed")
    traced.node.kill("tracer")
    for trace_id in trace_ids[3:]:
        await run(traced, "calculate 6 * 7", trace_id)
    traced.trace()
    await traced.collector.open()
    await traced.collector.until(lambda _: all(len(traced.of(t)) >= 6 for t in trace_ids))
    assert [len(traced.of(trace_id)) for trace_id in trace_ids] == [6] * 5


async def test_a_restart_floods_nobody(traced: Traced) -> None:
    """What was sent is not sent again, but for the last moments."""
    await run(traced, "calculate 6 * 7", "f" * 32)
    await traced.collector.until(lambda _: len(traced.of("f" * 32)) >= 6)
    tracer = traced.node.processes["tracer"]
    tracer.terminate()
    await asyncio.to_thread(tracer.wait, 30)
    before = len(traced.collector.spans)
    traced.trace()
    trace_id = f"{0xFFF:032x}"
    await run(traced, "calculate 6 * 7", trace_id)
    await traced.collector.until(lambda _: len(traced.of(trace_id)) >= 6)
    assert len(traced.collector.spans) == before + 6


async def test_nothing_that_was_said_is_in_a_span(traced: Traced) -> None:
    text = json.dumps([[s.name, s.attributes, s.events] for s in traced.collector.spans])
    assert traced.collector.spans
    assert not [secret for secret in SECRETS if secret in text]


async def test_the_tracers_figures_are_the_nodes(traced: Traced) -> None:
    async with asyncio.timeout(30):
        while True:
            async with traced.node.http.get("/metrics") as answer:
                text = await answer.text()
            found = dict(
                line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("agentos_otel")
            )
            if float(found.get("agentos_otel_spans_sent_total", 0)) > 0:
                break
            await asyncio.sleep(0.1)
    assert found["agentos_otel_collector_up"] == "1.0"
    assert found['agentos_otel_spans_dropped_total{reason="too_old"}'] == "0.0"
