"""Spans over real HTTP: what a collector decodes, and what each of its answers means."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from aiohttp import web

from agentos.domain.tracing.span import Mark, Sent, Span
from agentos.infra.telemetry.otlp import OtlpSink
from tests.infra.telemetry.collector import Collector, ok, status

SPAN = Span(
    trace_id="4bf92f3577b34da6a3ce929d0e0e4736",
    span_id="00f067aa0ba902b7",
    parent_span_id="b7ad6b7169203331",
    name="invoke_agent agt_a",
    kind="internal",
    start_ms=1_800_000_000_001,
    end_ms=1_800_000_000_250,
    attributes={"text": "grüße 😀", "count": 3, "cost": 0.25, "flag": True},
    error="timeout",
    marks=(Mark("agentos.run.started", 1_800_000_000_010, {"agentos.run.attempt": 2}),),
)


@pytest_asyncio.fixture
async def collector() -> AsyncIterator[Collector]:
    """A collector that listens."""
    opened = Collector()
    await opened.open()
    yield opened
    await opened.close()


def sink_of(collector: Collector, timeout_s: float = 10.0, **headers: str) -> OtlpSink:
    resource = {"service.name": "agentos", "service.instance.id": "stk_a"}
    url = f"{collector.url}/v1/traces"
    return OtlpSink(url, headers, resource, version="0.1.0", timeout_s=timeout_s)


async def send(collector: Collector, *spans: Span, timeout_s: float = 10.0) -> Sent:
    sink = sink_of(collector, timeout_s, authorization="Bearer s3cret")
    try:
        return await sink.send(spans)
    finally:
        await sink.aclose()


async def test_a_span_arrives_as_it_is(collector: Collector) -> None:
    assert await send(collector, SPAN) == Sent("sent")
    (got,) = collector.spans
    assert (got.trace_id, got.span_id, got.parent) == (
        SPAN.trace_id,
        SPAN.span_id,
        SPAN.parent_span_id,
    )
    assert (got.name, got.kind, got.status) == ("invoke_agent agt_a", 1, 2)
    assert (got.start_ms, got.end_ms) == (SPAN.start_ms, SPAN.end_ms)
    assert got.attributes == {**SPAN.attributes, "error.type": "timeout"}
    assert got.events == [
        ("agentos.run.started", 1_800_000_000_010, {"agentos.run.attempt": 2}),
    ]
    assert collector.resources == [{"service.name": "agentos", "service.instance.id": "stk_a"}]
    assert collector.paths == ["/v1/traces"]
    sent = {name.lower(): value for name, value in collector.headers[0].items()}
    assert sent["authorization"] == "Bearer s3cret"
    assert (sent["content-type"], sent["content-encoding"]) == ("application/x-protobuf", "gzip")


async def test_the_first_of_a_trace_has_no_parent(collector: Collector) -> None:
    from dataclasses import replace

    await send(collector, replace(SPAN, parent_span_id=None, error=None, kind="client"))
    (got,) = collector.spans
    assert (got.parent, got.kind, got.status) == ("", 3, 0)


@pytest.mark.parametrize("code", [400, 413, 415, 422])
async def test_what_is_refused_is_refused(collector: Collector, code: int) -> None:
    collector.answers = [status(code)]
    assert await send(collector, SPAN) == Sent("refused", f"status {code}")


@pytest.mark.parametrize("code", [301, 401, 403, 404, 429, 500, 502, 503, 504])
async def test_what_may_pass_is_waited_for(collector: Collector, code: int) -> None:
    collector.answers = [status(code)]
    sent = await send(collector, SPAN)
    assert sent == Sent("away", f"status {code}")
    assert len(collector.paths) == 1  # a redirect takes no header elsewhere


async def test_a_collector_may_say_when(collector: Collector) -> None:
    collector.answers = [status(429, Retry_After="7"), status(503, Retry_After="soon")]
    assert (await send(collector, SPAN)).wait_s == 7.0
    assert (await send(collector, SPAN)).wait_s == 0.0


async def test_a_part_may_be_rejected(collector: Collector) -> None:
    collector.answers = [lambda: ok(rejected=1)]
    assert await send(collector, SPAN, SPAN) == Sent("sent", rejected=1)


async def test_an_answer_that_is_no_otlp_will_do(collector: Collector) -> None:
    collector.answers = [lambda: web.Response(body=b"\xff{ok}")]
    assert await send(collector, SPAN) == Sent("sent")


async def test_nobody_there(collector: Collector) -> None:
    await collector.close()
    sent = await send(collector, SPAN)
    assert sent.outcome == "away"
    assert "s3cret" not in sent.reason


async def test_a_collector_that_never_answers_is_given_up(collector: Collector) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        collector.port = silent.getsockname()[1]
        sent = await asyncio.wait_for(send(collector, SPAN, timeout_s=0.2), 30)
    assert sent == Sent("away", "no answer within 0.2 s")


def test_the_environment_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What OpenTelemetry's own variables say must not get in: settings are read in one place."""
    monkeypatch.setitem(os.environ, "OTEL_RESOURCE_ATTRIBUTES", "service.name=other")
    sink = OtlpSink("http://127.0.0.1:1", {}, {"service.name": "agentos"}, version="1")
    assert dict(sink._resource.attributes) == {"service.name": "agentos"}
