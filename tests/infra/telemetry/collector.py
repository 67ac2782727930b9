"""An OTLP collector of ours: a real HTTP server that decodes what it is sent."""

import asyncio
import gzip
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from tests.infra.embedded import reserved_port

Answer = Callable[[], web.Response]
MS = 1_000_000


@dataclass(frozen=True)
class Received:
    """A span as it arrived; ids in hex, times in ms."""

    trace_id: str
    span_id: str
    parent: str
    name: str
    kind: int
    start_ms: float
    end_ms: float
    attributes: dict[str, Any]
    status: int
    events: list[tuple[str, float, dict[str, Any]]]


@dataclass
class Collector:
    """Takes spans on a port that stays the same. `answers` come first, one a request.

    A server that is not `open` refuses connections.
    """

    port: int = field(default_factory=reserved_port)
    answers: list[Answer] = field(default_factory=list)
    spans: list[Received] = field(default_factory=list)
    resources: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    _runner: web.AppRunner | None = None
    _came: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def url(self) -> str:
        """The endpoint to set."""
        return f"http://127.0.0.1:{self.port}"

    async def open(self) -> None:
        """Listen."""
        app = web.Application()
        app.router.add_post("/{tail:.*}", self._take)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True).start()

    async def close(self) -> None:
        """Listen no more."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def until(self, found: Callable[[list[Received]], object], within: float = 60.0) -> None:
        """Wait until the spans satisfy a condition."""
        try:
            async with asyncio.timeout(within):
                while not found(self.spans):
                    self._came.clear()
                    await self._came.wait()
        except TimeoutError:
            raise AssertionError(f"never came: {[span.name for span in self.spans]}") from None

    async def asked(self, times: int, within: float = 60.0) -> None:
        """Wait until so many requests came."""
        async with asyncio.timeout(within):
            while len(self.paths) < times:
                self._came.clear()
                await self._came.wait()

    def named(self, start: str) -> list[Received]:
        """Return the spans whose name begins so, without repeats, in the order of their starts."""
        found = {s.span_id: s for s in self.spans if s.name.startswith(start)}
        return sorted(found.values(), key=lambda span: span.start_ms)

    async def _take(self, request: web.Request) -> web.Response:
        body = await request.read()
        if request.headers.get("Content-Encoding") == "gzip" and body[:2] == b"\x1f\x8b":
            body = gzip.decompress(body)
        self.paths.append(request.path)
        self.headers.append(dict(request.headers))
        answer = self.answers.pop(0)() if self.answers else ok()
        if answer.status == 200:
            self._read(ExportTraceServiceRequest.FromString(body))
        self._came.set()
        return answer

    def _read(self, sent: ExportTraceServiceRequest) -> None:
        for resource in sent.resource_spans:
            self.resources.append(_attributes(resource.resource.attributes))
            for scope in resource.scope_spans:
                self.spans += [_received(span) for span in scope.spans]


def ok(rejected: int = 0) -> web.Response:
    """Return the answer of a collector that took everything, or all but some."""
    partial = ExportTracePartialSuccess(rejected_spans=rejected)
    said = ExportTraceServiceResponse(partial_success=partial if rejected else None)
    return web.Response(
        body=said.SerializeToString(), headers={"Content-Type": "application/x-protobuf"}
    )


def status(code: int, **headers: str) -> Answer:
    """Return what makes an answer with a status."""
    return lambda: web.Response(
        status=code, headers={name.replace("_", "-"): value for name, value in headers.items()}
    )


def _received(span: Any) -> Received:
    return Received(
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        name=span.name,
        kind=span.kind,
        start_ms=span.start_time_unix_nano / MS,
        end_ms=span.end_time_unix_nano / MS,
        attributes=_attributes(span.attributes),
        status=span.status.code,
        events=[(e.name, e.time_unix_nano / MS, _attributes(e.attributes)) for e in span.events],
    )


def _attributes(pairs: Any) -> dict[str, Any]:
    return {p.key: getattr(p.value, p.value.WhichOneof("value")) for p in pairs}
