"""The span of a model call that was recorded."""

from pathlib import Path
from typing import Any

import pytest

from agentos.domain.aggregate import read_event
from agentos.domain.envelope import Event, Trace
from agentos.domain.models.catalog import Catalog
from agentos.domain.models.defaults import DEFAULT_CATALOG
from agentos.domain.models.provider import NAMES, Providers
from agentos.domain.run.events import TokenUsage
from agentos.domain.tracing.call_spans import call_span
from agentos.domain.tracing.ids import NO_PARENT, span_of
from agentos.domain.tracing.span import Span
from agentos.domain.usage.usage import CallError, UsageRecorded
from tests.domain.given import ANNA, T0, TRACE

GOLDEN = Path(__file__).parents[1] / "golden" / "v1"
PARENT = "b7ad6b7169203331"
USED = TokenUsage(input_tokens=12, output_tokens=3, total_tokens=15)


def provider_of(backend: str, model: str) -> str:
    return f"provider of {backend}"


def event_of(traceparent: str = TRACE, **more: Any) -> Event:
    fields: dict[str, Any] = {
        "request_id": "req_1",
        "operation": "chat",
        "model_ref": "tier:fast",
        "backend": "vllm",
        "model": "gpt-x",
        "node": "stk_a",
        "status": "ok",
        "usage": USED,
        "latency_ms": 40,
        "ended_ms": T0 + 100,
        "parent_span_id": PARENT,
    }
    payload = UsageRecorded(**fields | more)
    trace = Trace(traceparent, traceparent[36:52])
    return Event("evt_1", 1, T0 + 500, "tnt_a", trace, payload, principal=ANNA)


def span_of_call(**more: Any) -> Span:
    event = event_of(**more)
    assert isinstance(event.payload, UsageRecorded)
    span = call_span(event, event.payload, provider_of)
    assert span is not None
    return span


def test_it_is_the_requests_own_span() -> None:
    span = span_of_call()
    assert (span.trace_id, span.span_id, span.parent_span_id) == (TRACE[3:35], TRACE[36:52], PARENT)
    assert (span.name, span.kind) == ("chat tier:fast", "client")
    assert (span.start_ms, span.end_ms) == (T0 + 60, T0 + 100)
    assert span.error is None


def test_it_may_be_the_first_of_its_trace() -> None:
    assert span_of_call(parent_span_id=NO_PARENT).parent_span_id is None


def test_the_names_are_the_conventions() -> None:
    from opentelemetry.semconv._incubating.attributes import gen_ai_attributes as conventions
    from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE

    from agentos.domain.tracing import span as ours

    for name in (
        "OPERATION_NAME PROVIDER_NAME REQUEST_MODEL RESPONSE_MODEL REQUEST_STREAM AGENT_ID "
        "AGENT_NAME AGENT_VERSION CONVERSATION_ID TOOL_NAME TOOL_TYPE TOOL_CALL_ID "
        "USAGE_INPUT_TOKENS USAGE_OUTPUT_TOKENS"
    ).split():
        short = name.removeprefix("USAGE_").removesuffix("_NAME")
        mine = getattr(ours, name, None) or getattr(ours, short)
        assert mine == getattr(conventions, f"GEN_AI_{name}")
    assert ours.ERROR_TYPE == ERROR_TYPE


def test_what_the_attributes_say() -> None:
    said = span_of_call(streamed=True, agent_id="agt_a", run_id="run_1", cost_usd=0.5).attributes
    assert said == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "provider of vllm",
        "gen_ai.request.model": "tier:fast",
        "gen_ai.request.stream": True,
        "gen_ai.response.model": "gpt-x",
        "gen_ai.usage.input_tokens": 12,
        "gen_ai.usage.output_tokens": 3,
        "gen_ai.agent.id": "agt_a",
        "agentos.tenant.id": "tnt_a",
        "agentos.run.id": "run_1",
        "agentos.request.id": "req_1",
        "agentos.node": "stk_a",
        "agentos.backend": "vllm",
        "agentos.call.status": "ok",
        "agentos.cost_usd": 0.5,
    }


def test_an_embedding() -> None:
    span = span_of_call(operation="embed")
    assert span.name == "embeddings tier:fast"
    assert span.attributes["gen_ai.operation.name"] == "embeddings"


@pytest.mark.parametrize(
    ("status", "error", "expected"),
    [
        ("error", CallError(code="provider_error", message="secret"), "provider_error"),
        ("blocked", CallError(code="policy_blocked", message="secret"), "policy_blocked"),
        ("interrupted", None, "interrupted"),
    ],
)
def test_a_failure_says_its_code_and_no_more(status: str, error: Any, expected: str) -> None:
    span = span_of_call(status=status, error=error)
    assert span.error == expected
    assert "secret" not in repr(span)
    assert "gen_ai.response.model" not in span.attributes
    assert span.attributes["gen_ai.usage.input_tokens"] == 12  # was used all the same


def test_a_refusal_reached_no_model() -> None:
    none = TokenUsage(input_tokens=0, output_tokens=0, total_tokens=0)
    span = span_of_call(status="refused", backend="", model="", usage=none, stands_for=7)
    assert span.attributes["gen_ai.provider.name"] == "agentos"
    assert span.attributes["agentos.stands_for"] == 7
    assert not [name for name in span.attributes if name.startswith("gen_ai.usage")]


def test_a_trace_that_is_not_sampled_is_not_kept() -> None:
    event = event_of(TRACE[:-2] + "00")
    assert isinstance(event.payload, UsageRecorded)
    assert call_span(event, event.payload, provider_of) is None


def test_a_call_of_before_ended_when_it_was_written_down() -> None:
    line = (GOLDEN / "agentos.usage.recorded.json").read_bytes().strip()
    event = read_event(line, {UsageRecorded.TYPE: UsageRecorded})
    assert isinstance(event.payload, UsageRecorded)
    span = call_span(event, event.payload, provider_of)
    assert span is not None
    assert span.end_ms == event.time
    assert span.span_id == span_of(event.event_id)
    assert span.parent_span_id == event.trace.span_id
    assert "anna" not in repr(span)


def test_providers() -> None:
    providers = Providers(DEFAULT_CATALOG)
    assert providers.of("builtin", "echo") == "agentos"
    assert providers.of("not-there", "x") == "not-there"
    document = Catalog.model_validate(
        {
            "backends": [{"name": "a", "kind": "google"}, {"name": "b", "kind": "openai"}],
            "models": [{"model_id": "b/m", "provider": "mistral_ai"}, {"model_id": "b/n"}],
        }
    )
    found = Providers(document)
    assert [found.of("a", "g"), found.of("b", "m"), found.of("b", "n")] == [
        "gcp.gemini",
        "mistral_ai",
        "openai",
    ]
    assert set(NAMES) == {"builtin", "local", "openai", "anthropic", "google", "aws-bedrock"}
