"""Spans as OTLP over HTTP, made by OpenTelemetry's SDK and encoder.

The SDK's own exporter is not used: it says only that a batch failed, and one that will never be
taken must not be waited for as one that the collector has no time for.
"""

import asyncio
import gzip
from collections.abc import Mapping, Sequence
from typing import Final

import aiohttp
from google.protobuf.message import DecodeError
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from agentos.domain.tracing.span import ERROR_TYPE, Sent, Span

TIMEOUT_S: Final = 10.0
REFUSED: Final = frozenset({400, 413, 415, 422})
"""What no waiting mends. A wrong address or credential is mended by people: the spans wait."""
MS: Final = 1_000_000
MAX_ANSWER: Final = 64 * 1024
KINDS: Final = {"internal": SpanKind.INTERNAL, "client": SpanKind.CLIENT}


class OtlpSink:
    """One collector; `url` is the whole of it. Neither the headers nor the URL are ever told."""

    def __init__(
        self,
        url: str,
        headers: Mapping[str, str],
        resource: Mapping[str, str],
        *,
        version: str,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._url = url
        self._headers = {
            **headers,
            "Content-Type": "application/x-protobuf",
            "Content-Encoding": "gzip",
            "User-Agent": f"agentos/{version}",
        }
        self._resource = Resource(dict(resource))
        self._scope = InstrumentationScope("agentos", version)
        self._timeout_s = timeout_s
        self._session: aiohttp.ClientSession | None = None

    async def send(self, spans: Sequence[Span]) -> Sent:
        """Send a batch once; as `SpanSink.send`."""
        body = encode_spans([self._readable(span) for span in spans]).SerializeToString()
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._post(gzip.compress(body, 5))
        except TimeoutError:
            return Sent("away", f"no answer within {self._timeout_s:g} s")
        except aiohttp.ClientError as exc:
            return Sent("away", type(exc).__name__)

    async def aclose(self) -> None:
        """Close the connection."""
        if self._session is not None:
            await self._session.close()

    async def _post(self, body: bytes) -> Sent:
        async with self._open().post(
            self._url, data=body, headers=self._headers, allow_redirects=False
        ) as answer:
            if answer.status in REFUSED:
                return Sent("refused", f"status {answer.status}")
            if not 200 <= answer.status < 300:
                wait_s = _seconds(answer.headers.get("Retry-After", ""))
                return Sent("away", f"status {answer.status}", wait_s=wait_s)
            said = await answer.content.read(MAX_ANSWER)
            return Sent("sent", rejected=_rejected(said))

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None),
                trust_env=True,
            )
        return self._session

    def _readable(self, span: Span) -> ReadableSpan:
        failed = span.error is not None
        attributes = dict(span.attributes)
        if span.error is not None:
            attributes[ERROR_TYPE] = span.error
        return ReadableSpan(
            name=span.name,
            context=_context(span.trace_id, span.span_id),
            parent=_context(span.trace_id, span.parent_span_id) if span.parent_span_id else None,
            resource=self._resource,
            attributes=attributes,
            events=[
                Event(mark.name, dict(mark.attributes), mark.at_ms * MS) for mark in span.marks
            ],
            kind=KINDS[span.kind],
            status=Status(StatusCode.ERROR if failed else StatusCode.UNSET),
            start_time=span.start_ms * MS,
            end_time=span.end_ms * MS,
            instrumentation_scope=self._scope,
        )


def _context(trace_id: str, span_id: str) -> SpanContext:
    return SpanContext(
        trace_id=int(trace_id, 16),
        span_id=int(span_id, 16),
        is_remote=False,
        trace_flags=TraceFlags(TraceFlags.SAMPLED),
    )


def _rejected(said: bytes) -> int:
    """Return how many spans a collector says it did not keep; not every one answers in OTLP."""
    try:
        partial = ExportTraceServiceResponse.FromString(said).partial_success
    except DecodeError:
        return 0
    return max(0, int(partial.rejected_spans))


def _seconds(text: str) -> float:
    return float(text) if text.isascii() and text.isdigit() else 0.0
